"""Work that asks for a target is claimed by a worker that offers it, and by no other."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from espalier.targets import Device
from models.base import clock_s
from models.claims import Claim, claim_next, complete
from models.database import Database
from models.errors import NotFound
from models.offers import FRESH_S, Offer, check_known, claims, list_targets, offer, offered
from models.overview import waiting_for
from models.queue import enqueue
from models.target import Target
from models.work import Kind
from tests.models.records import submit

HERE = Offer("onnxruntime", "1.31", Device("here", "cpu", "this", "a"))
THERE = Offer("onnxruntime", "1.31", Device("there", "cpu", "that", "b"))
OTHER = Offer("torch", "2.13", HERE.device)


def _target(runtime: str = "onnxruntime", device: str | None = None) -> dict[str, Any]:
    return {"runtime": runtime, "device": device, "threads": 1, "batch": 1}


def _claim(database: Database, *offers: Offer) -> Claim | None:
    with database.transaction() as session:
        return claim_next(session, "test", 60.0, offers=claims(offers))


@pytest.mark.parametrize(
    ("asked", "takes"),
    [
        (_target(), {HERE.id, THERE.id}),
        (_target("torch"), {OTHER.id}),
        (_target(device=THERE.device.id), {THERE.id}),
        (_target("torch", THERE.device.id), set()),
        (None, {HERE.id, THERE.id, OTHER.id}),  # a job from before there were targets
    ],
)
def test_only_a_worker_that_offers_the_target_claims(
    database: Database, asked: dict[str, Any] | None, takes: set[str]
) -> None:
    job = submit(database, **({} if asked is None else {"target": asked}))
    for each in (HERE, THERE, OTHER):
        with database.transaction() as session:
            claim = claim_next(session, "test", 60.0, offers=claims([each]))
            assert (claim is not None) == (each.id in takes)
            assert claim is None or claim.job_id == job
            session.rollback()


def test_what_asks_for_nothing_is_done_by_all(database: Database) -> None:
    job = submit(database, target=_target("torch"))
    prepared = _claim(database, OTHER)
    assert prepared is not None
    with database.transaction() as session:
        complete(session, prepared)
        enqueue(session, job, Kind.ADVANCE)
    claim = _claim(database, HERE)
    assert claim is not None
    assert claim.kind is Kind.ADVANCE


def test_a_job_says_that_no_worker_offers_its_target_until_one_does(database: Database) -> None:
    job = submit(database, target=_target(device=THERE.device.id))

    def waits() -> str | None:
        with database.transaction() as session:
            return waiting_for(session, [job]).get(job)

    assert waits() == f"target: no worker offers {THERE.id} now"
    with database.transaction() as session:
        offer(session, [HERE])
    assert waits() == f"target: no worker offers {THERE.id} now"
    with database.transaction() as session:
        offer(session, [THERE])
    assert waits() is None
    with database.transaction() as session:
        stale = {"seen_at": clock_s() - 2 * FRESH_S}
        session.execute(update(Target).where(Target.id == THERE.id).values(**stale))
    assert waits() == f"target: no worker offers {THERE.id} now"


def test_offers_are_renewed_not_doubled(database: Database) -> None:
    newer = Offer(HERE.runtime, "2.0", HERE.device)
    for offers in ([HERE, OTHER], [THERE], [newer]):
        with database.transaction() as session:
            offer(session, offers)
    with database.transaction() as session:
        found = {row.id: (row.version, fresh) for row, fresh in list_targets(session)}
        assert found == {
            HERE.id: ("2.0", True),
            OTHER.id: ("2.13", True),
            THERE.id: ("1.31", True),
        }
        every = {HERE.runtime, OTHER.runtime, HERE.id, OTHER.id, THERE.id}
        assert offered(session) == every


def test_a_device_that_was_never_there_cannot_be_asked_for(database: Database) -> None:
    with database.transaction() as session:
        offer(session, [HERE])
        for target in (None, "openvino", HERE.id):
            check_known(session, target)
        with pytest.raises(NotFound, match=THERE.id):
            check_known(session, THERE.id)
