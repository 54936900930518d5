"""What groups lose at each width, where an earlier job has measured it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.job import Job
from models.trial import Trial
from search.spec import JobSpec

_JOBS = 20  # of the same network, dataset and strategy, the newest first


def known_levels(session: Session, job: Job) -> list[list[float]] | None:
    """Losses of every group, `(groups,)` lists of `(channels,)`, for `search.engine.prepare`.

    They follow from network, data and `JobSpec.levels`, never from the budget: so a job takes them
    over from an earlier one that agrees in those. `None` if there is none that measured them all.
    """
    if job.strategy != "allocate":
        return None
    levels = JobSpec.stored(job.spec).levels
    earlier = (
        select(Job)
        .where(
            Job.network_id == job.network_id,
            Job.dataset_id == job.dataset_id,
            Job.strategy == job.strategy,
            Job.prepared.is_not(None),
            Job.id != job.id,
        )
        .order_by(Job.created_at.desc(), Job.id.desc())
        .limit(_JOBS)
    )
    for other in session.scalars(earlier):
        if other.prepared and JobSpec.stored(other.spec).levels == levels:
            losses = other.prepared.get("levels") or _measured(session, other)
            if losses is not None:
                return list(losses)
    return None


def _measured(session: Session, job: Job) -> list[list[float]] | None:
    """Losses that the job's own trials found, if all of them did."""
    query = select(Trial.levels_of, Trial.losses).where(
        Trial.job_id == job.id, Trial.levels_of.is_not(None), Trial.finished_at.is_not(None)
    )
    found = {group: losses for group, losses in session.execute(query) if losses}
    groups = len((job.prepared or {})["groups"])
    return [found[group] for group in range(groups)] if len(found) == groups else None
