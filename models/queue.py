"""Units of work that wait, and the messages that announce them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from models.base import clock_s
from models.database import RUNG
from models.job import Job, State
from models.outbox import Outbox
from models.work import Kind, Work, WorkState

OPEN = (WorkState.READY, WorkState.CLAIMED)


def enqueue(session: Session, job_id: str, kind: Kind, trial: int | None = None) -> Work:
    """Make a unit of work and its outbox row; the workers hear of it after the commit."""
    work = Work(job_id=job_id, kind=kind, trial=trial)
    session.add(work)
    session.flush()
    announce(session, work.id)
    return work


def announce(session: Session, work_id: int) -> None:
    """Have the workers hear of a unit of work after the commit."""
    message = Outbox(work_id=work_id)
    session.add(message)
    session.flush()
    session.info.setdefault(RUNG, {})[message.id] = work_id


def waits() -> tuple[ColumnElement[bool], ...]:
    """The conditions on `Work` joined with `Job` under which a worker may claim a unit now."""
    return (
        Work.state == WorkState.READY,
        Work.not_before <= clock_s(),
        Job.state.in_((State.QUEUED, State.RUNNING, State.FINALIZING)),
        Job.pause_requested_at.is_(None),
    )


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
