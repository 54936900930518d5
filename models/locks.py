"""Locking a job's row, which comes before every change to the job or to what belongs to it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from models.errors import LeaseLost, NotFound
from models.job import Job


def lock_job(session: Session, job_id: str) -> Job:
    """The job's row, fresh, locked until the transaction ends.

    Raises:
        NotFound: there is no such job.
    """
    job = session.get(Job, job_id, with_for_update={"of": Job}, populate_existing=True)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}: GET /v1/jobs lists them")
    return job


def lock_worked_on(session: Session, job_id: str) -> Job:
    """Lock the job for an attempt at one of its units.

    Raises:
        LeaseLost: the job was canceled and deleted meanwhile.
    """
    try:
        return lock_job(session, job_id)
    except NotFound as error:
        raise LeaseLost(f"job {job_id} has been deleted") from error
