"""Numbers about many rows at once, for views and for monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from models.base import clock_s
from models.blob import Blob
from models.job import Job, State
from models.offers import offered
from models.outbox import Outbox
from models.trial import Trial
from models.work import Work, WorkState

_SILENT = "worker: no sign of life, or the database takes no writes"


def measured_trials(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """How many trials of each job are finished; jobs without any are left out."""
    query = (
        select(Trial.job_id, func.count().label("trials"))
        .where(Trial.job_id.in_(job_ids), Trial.finished_at.is_not(None))
        .group_by(Trial.job_id)
    )
    return {row.job_id: row.trials for row in session.execute(query)}


def best_trials(session: Session, jobs: Sequence[Job]) -> dict[str, Trial]:
    """The best trial so far of each job; jobs without one are left out."""
    keys = [(job.id, job.best) for job in jobs if job.best is not None]
    query = select(Trial).where(tuple_(Trial.job_id, Trial.number).in_(keys))
    return {trial.job_id: trial for trial in session.scalars(query)} if keys else {}


def waiting_for(session: Session, job_ids: Sequence[str]) -> dict[str, str]:
    """What the jobs' units of work wait for, the longest wait of each job; others are left out.

    A unit that is being tried again does not wait. That a lease has lapsed and nobody gave the
    unit back is a fault too: either the database takes no writes, or no reaper runs. A unit that
    asks for a target waits while no worker offers it.
    """
    ready = Work.state == WorkState.READY
    held = and_(ready, or_(Work.waiting_for.is_not(None), Work.target.is_not(None)))
    lapsed = and_(Work.state == WorkState.CLAIMED, Work.lease_until < clock_s())
    query = (
        select(Work.job_id, Work.waiting_for, Work.state, Work.target)
        .where(Work.job_id.in_(job_ids), or_(held, lapsed))
        .order_by(Work.waiting_since.desc(), Work.id.desc())
    )
    rows = session.execute(query).all()
    now = offered(session) if any(row.target is not None for row in rows) else frozenset()
    found = {}
    for row in rows:
        if row.state != WorkState.READY:
            found[row.job_id] = _SILENT
        elif row.waiting_for is not None:
            found[row.job_id] = row.waiting_for
        elif row.target not in now:
            found[row.job_id] = f"target: no worker offers {row.target} now"
    return found


def scored_trials(session: Session, job_id: str) -> list[tuple[int, float, dict[str, Any]]]:
    """Number, score and cost of each trial of a job that has a score."""
    query = (
        select(Trial.number, Trial.score, Trial.cost)
        .where(Trial.job_id == job_id, Trial.score.is_not(None))
        .order_by(Trial.number)
    )
    return [(row.number, row.score, row.cost or {}) for row in session.execute(query)]


def jobs_by_state(session: Session) -> dict[str, int]:
    """How many jobs there are in each state, those without any included."""
    counts = dict.fromkeys((state.value for state in State), 0)
    query = select(Job.state, func.count().label("jobs")).group_by(Job.state)
    return counts | {row.state: row.jobs for row in session.execute(query)}


def open_work(session: Session) -> dict[tuple[str, str], int]:
    """How many units of work wait and run, by kind and state."""
    query = (
        select(Work.kind, Work.state, func.count())
        .where(Work.state.in_((WorkState.READY, WorkState.CLAIMED)))
        .group_by(Work.kind, Work.state)
    )
    return {(kind, state): count for kind, state, count in session.execute(query)}


def longest_wait_s(session: Session) -> float:
    """Age of the oldest unit of work that a worker could claim now, in seconds; 0 if none."""
    query = select(func.min(Work.created_at)).where(
        Work.state == WorkState.READY, Work.not_before <= clock_s()
    )
    oldest = session.scalar(query)
    return 0.0 if oldest is None else max(0.0, session.scalars(select(clock_s())).one() - oldest)


def unsent(session: Session) -> int:
    """How many messages wait in the outbox."""
    return session.scalars(select(func.count()).select_from(Outbox)).one()


def stored_bytes(session: Session) -> int:
    """Bytes of all blobs that something uses."""
    query = select(func.coalesce(func.sum(Blob.size_bytes), 0)).where(Blob.uses > 0)
    return int(session.scalars(query).one())
