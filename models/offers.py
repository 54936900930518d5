"""Which targets are offered now, and the work that asks for one.

A unit of work that times networks asks for a runtime anywhere (`onnxruntime`), or for a runtime on
a device (`onnxruntime@dev_...`). A worker claims what asks for nothing, and what it offers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from espalier import targets
from espalier.targets import Device, RuntimeName
from models.base import clock_s
from models.errors import NotFound
from models.target import Target
from models.upserts import insert_into

OFFER_S = 20.0
"""How often a worker says what it offers."""
FRESH_S = 3 * OFFER_S
"""A target that no worker offered for so long is not offered now."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A runtime on a worker's device."""

    runtime: RuntimeName
    version: str
    device: Device

    @property
    def id(self) -> str:
        return f"{self.runtime}@{self.device.id}"

    def target(self, *, threads: int, batch: int) -> targets.Target:
        """The target, with what is left to whoever asks for it."""
        return targets.Target(self.runtime, self.version, self.device, threads=threads, batch=batch)


def target_of(spec: Mapping[str, Any]) -> str | None:
    """What a job's specification asks of the worker that times; before there were targets nothing.

    Args:
        spec: as its row holds it.
    """
    target = spec.get("target")
    if target is None:
        return None
    runtime, device = target["runtime"], target["device"]
    return str(runtime if device is None else f"{runtime}@{device}")


def claims(offers: Collection[Offer]) -> frozenset[str]:
    """All that a worker with these offers can be asked for."""
    return frozenset(each for offer in offers for each in (offer.runtime, offer.id))


def offer(session: Session, offers: Sequence[Offer]) -> None:
    """Say what a worker offers now."""
    for each in offers:
        now = {
            "version": each.version,
            "device": {"id": each.device.id, **each.device.to_json()},
            "seen_at": clock_s(),
        }
        session.execute(
            insert_into(session, Target)
            .values(id=each.id, runtime=each.runtime, **now)
            .on_conflict_do_update(index_elements=[Target.id], set_=now)
        )


def list_targets(session: Session) -> list[tuple[Target, bool]]:
    """All targets that were ever offered, those offered now first; with whether they are."""
    fresh = (Target.seen_at >= clock_s() - FRESH_S).label("offered")
    query = select(Target, fresh).order_by(fresh.desc(), Target.runtime, Target.id)
    return [(row, bool(offered)) for row, offered in session.execute(query)]


def check_known(session: Session, target: str | None) -> None:
    """See that a worker can be asked for that target, now or when it is there again.

    Raises:
        NotFound: no worker ever offered that runtime on that device.
    """
    if target is not None and "@" in target and session.get(Target, target) is None:
        raise NotFound(f"no worker ever offered {target}: GET /v1/targets lists what they do")


def offered_targets(session: Session, asked: Mapping[str, Any]) -> list[targets.Target]:
    """The targets offered now that what a job asks for may lead to; of equally fast ones one.

    Args:
        asked: `target` of a specification, as JSON values.
    """
    name = target_of({"target": asked})
    found: dict[str, targets.Target] = {}
    for row, fresh in list_targets(session):
        if fresh and name in (row.runtime, row.id):
            device = {key: value for key, value in row.device.items() if key != "id"}
            target = targets.Target(
                asked["runtime"],
                row.version,
                Device.from_json(device),
                threads=asked["threads"],
                batch=asked["batch"],
            )
            found.setdefault(target.key, target)
    return list(found.values())


def offered(session: Session) -> frozenset[str]:
    """All that work can ask for now."""
    return frozenset(
        each for row, fresh in list_targets(session) if fresh for each in (row.runtime, row.id)
    )
