"""Units of work that wait, and the messages that announce them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sqlalchemy import ColumnElement, Select, case, func, insert, or_, select
from sqlalchemy.orm import Session, aliased

from models.base import clock_s
from models.database import RUNG
from models.job import Job, State
from models.work import Kind, Work, WorkState

OPEN = (WorkState.READY, WorkState.CLAIMED)


def enqueue(
    session: Session,
    job_id: str,
    kind: Kind,
    trial: int | None = None,
    *,
    target: str | None = None,
) -> Work:
    """Make a unit of work; the workers hear of it after the commit.

    Args:
        target: what a worker has to offer to claim it, see `models.offers`.
    """
    work = Work(job_id=job_id, kind=kind, trial=trial, target=target)
    session.add(work)
    session.flush()
    announce(session, work.id)
    return work


def enqueue_trials(session: Session, job_id: str, numbers: Sequence[int]) -> None:
    """Make a unit of work for each trial, to be done in this order."""
    if numbers:
        rows = [{"job_id": job_id, "kind": Kind.EVALUATE, "trial": number} for number in numbers]
        made = insert(Work).returning(Work.id, sort_by_parameter_order=True)
        for work_id in session.scalars(made, rows):
            announce(session, work_id)


def announce(session: Session, work_id: int) -> None:
    """Have the workers hear of a unit of work after the commit."""
    session.info.setdefault(RUNG, []).append(work_id)


def hush(session: Session) -> None:
    """Send a message less: this transaction takes a unit itself.

    Which unit it takes does not matter. There are as many messages as units that wait; if the one
    it takes was announced before, that message is left for a unit that this transaction made.
    """
    rung: list[int] = session.info.get(RUNG, [])
    if rung:
        rung.pop(0)


def waits() -> tuple[ColumnElement[bool], ...]:
    """The conditions on `Work` joined with `Job` under which a worker may claim a unit now."""
    return (
        Work.state == WorkState.READY,
        Work.not_before <= clock_s(),
        Job.state.in_((State.QUEUED, State.RUNNING, State.FINALIZING)),
        Job.pause_requested_at.is_(None),
    )


@cache
def next_turn(offers: frozenset[str] | None = None) -> Select[int, str]:
    """The unit that is to be claimed next, and its job.

    Args:
        offers: what the worker can be asked for, see `models.offers`; all if not given.

    Turns: the short `advance` first, then the job with the fewest units running, then the one
    that was served longest ago, so that a large job does not hold up a small one.
    """
    other = aliased(Work)
    running = (
        select(func.count())
        .where(other.job_id == Work.job_id, other.state == WorkState.CLAIMED)
        .correlate(Work)
        .scalar_subquery()
    )
    return (
        select(Work.id, Work.job_id)
        .join(Job, Job.id == Work.job_id)
        .where(*waits(), *([] if offers is None else [_claimable_with(offers)]))
        .order_by(case((Work.kind == Kind.ADVANCE, 0), else_=1), running, Job.served_at, Work.id)
        .limit(1)
    )


def _claimable_with(offers: frozenset[str]) -> ColumnElement[bool]:
    return or_(Work.target.is_(None), Work.target.in_(sorted(offers)))


def claimable(session: Session, limit: int = 1000) -> list[int]:
    """Units that wait for a worker, oldest first."""
    return list(
        session.scalars(
            select(Work.id)
            .join(Job, Job.id == Work.job_id)
            .where(*waits())
            .order_by(Work.id)
            .limit(limit)
        )
    )
