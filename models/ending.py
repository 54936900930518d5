"""Ending and pausing jobs: what becomes of their units of work."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.base import clock_s
from models.job import Job, State
from models.queue import OPEN
from models.references import release_job
from models.states import move
from models.work import Work, WorkState


def end(session: Session, job: Job, to: State, *, code: str = "", error: str = "") -> None:
    """Bring a job to `failed` or `canceled` and drop its open work; running attempts are fenced.

    Args:
        job: locked.
        code: stable name of what is wrong, if it failed; `error` says it in words.
    """
    session.execute(
        update(Work)
        .where(Work.job_id == job.id, Work.state.in_(OPEN))
        .values(
            state=WorkState.DROPPED,
            fence=Work.fence + 1,
            lease_until=None,
            finished_at=clock_s(),
        )
        .execution_options(synchronize_session=False)
    )
    release_job(session, job)
    if to is State.FAILED:
        job.error_code, job.error = code, error
        session.flush()
        move(session, job, to, code=code, error=error)
    else:
        move(session, job, to)


def settle(session: Session, job: Job) -> None:
    """Pause a job that was asked to, once none of its units runs any more.

    Args:
        job: locked.
    """
    if job.pause_requested_at is None or job.state not in (State.QUEUED, State.RUNNING):
        return
    running = select(Work.id).where(Work.job_id == job.id, Work.state == WorkState.CLAIMED)
    if session.execute(running.limit(1)).first() is None:
        move(session, job, State.PAUSED)
