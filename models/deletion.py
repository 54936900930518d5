"""Deleting jobs that have ended, with everything that only they name."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from models.artifact import Artifact
from models.errors import StateConflict
from models.event import Event
from models.idempotency_key import IdempotencyKey
from models.job import Job
from models.locks import lock_job
from models.outbox import Outbox
from models.references import release
from models.trial import Trial
from models.work import Work


def delete_job(session: Session, job_id: str) -> None:
    """Remove a job's rows and let go of its files; network and dataset stay.

    The bytes of a file go when nothing else uses it any more, see `references.collect`. The job's
    idempotency key is free again.

    Raises:
        NotFound: there is no such job.
        StateConflict: it has not ended.
    """
    job = lock_job(session, job_id)
    if not job.terminal:
        raise StateConflict(
            f"job {job_id} is {job.state} and cannot be deleted: cancel it first, with "
            f"POST /v1/jobs/{job_id}/cancel"
        )
    published = select(Artifact.digest).where(Artifact.job_id == job_id)
    tuned = select(Trial.weights).where(Trial.job_id == job_id, Trial.weights.is_not(None))
    digests = [*session.scalars(published), *session.scalars(tuned), job.checkpoint]
    units = select(Work.id).where(Work.job_id == job_id)
    session.execute(delete(Outbox).where(Outbox.work_id.in_(units)))
    for rows in (Work, Event, Artifact, Trial):
        session.execute(delete(rows).where(rows.job_id == job_id))
    session.execute(
        delete(IdempotencyKey).where(
            IdempotencyKey.scope == "jobs", IdempotencyKey.resource_id == job_id
        )
    )
    session.execute(delete(Job).where(Job.id == job_id))
    # The same order in every transaction: none waits for another.
    for digest in sorted(filter(None, digests)):
        release(session, digest)
