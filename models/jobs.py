"""What clients may do with jobs. Nothing here commits; `Database.transaction` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from models.artifact import Artifact
from models.base import clock_s
from models.ending import end, settle
from models.errors import NotFound, StateConflict
from models.events import append
from models.idempotency_keys import remember
from models.ids import new_id
from models.job import Job, State
from models.locks import lock_job
from models.offers import target_of
from models.pages import Page, page
from models.queue import announce, enqueue
from models.states import move
from models.trial import Trial
from models.uploads import get_dataset, get_network
from models.work import Kind, Work, WorkState


@dataclass(frozen=True, slots=True)
class Created:
    """A job, and whether this request made it (false: an earlier one with the same key did)."""

    job: Job
    new: bool


def create_job(
    session: Session,
    spec: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    request: Mapping[str, Any] | None = None,
) -> Created:
    """Record a job with its first unit of work and the message that announces it.

    Args:
        spec: a validated specification as JSON values, every default filled in.
        idempotency_key: the same key and request give the same job.
        request: what is compared for that, as JSON values; the specification if not given.
    Raises:
        NotFound: there is no such network or dataset.
        IdempotencyConflict: the key was used for another request.
    """
    job_id = new_id("job")
    if idempotency_key is not None:
        asked = json.dumps(spec if request is None else request, sort_keys=True)
        fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        made = remember(session, "jobs", idempotency_key, fingerprint, job_id)
        if made != job_id:
            return Created(get_job(session, made), new=False)
    job = Job(
        id=job_id,
        name=spec.get("name"),
        state=State.QUEUED,
        strategy=spec["strategy"]["name"],
        spec=dict(spec),
        network_id=get_network(session, spec["network"]).id,
        dataset_id=get_dataset(session, spec["dataset"]).id,
    )
    session.add(job)
    session.flush()
    append(session, job, "state", {"from": None, "to": State.QUEUED})
    enqueue(session, job.id, Kind.PREPARE, target=target_of(spec))
    return Created(job, new=True)


def get_job(session: Session, job_id: str) -> Job:
    """The job of that id.

    Raises:
        NotFound: there is none.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}: GET /v1/jobs lists them")
    return job


def list_jobs(
    session: Session,
    *,
    limit: int = 50,
    cursor: str | None = None,
    state: State | None = None,
    strategy: str | None = None,
    network: str | None = None,
    dataset: str | None = None,
    name: str | None = None,
) -> Page[Job]:
    """Jobs, newest first; each filter that is given must hold."""
    equal = {
        "state": state,
        "strategy": strategy,
        "network_id": network,
        "dataset_id": dataset,
        "name": name,
    }
    return page(session, Job, limit, cursor, equal)


def request_cancel(session: Session, job_id: str) -> Job:
    """Cancel a job at once: its waiting work is dropped and its running attempts are fenced out.

    A job that is already canceled stays so. The children of running attempts end at their
    supervisors' next heartbeat.

    Raises:
        NotFound: there is no such job.
        StateConflict: it succeeded or failed before.
    """
    job = lock_job(session, job_id)
    if job.state == State.CANCELED:
        return job
    if job.terminal:
        raise StateConflict(f"job {job_id} has already {job.state}: it cannot be canceled")
    _stamp(session, job, "cancel_requested_at")
    append(session, job, "request", {"request": "cancel"})
    end(session, job, State.CANCELED)
    return job


def request_pause(session: Session, job_id: str) -> Job:
    """Ask a job to pause; it becomes `paused` when none of its units runs any more.

    Raises:
        NotFound: there is no such job.
        StateConflict: it is finalizing or has ended.
    """
    job = lock_job(session, job_id)
    if job.state == State.PAUSED or job.pause_requested_at is not None:
        return job
    if job.state not in (State.QUEUED, State.RUNNING):
        raise StateConflict(
            f"job {job_id} is {job.state} and cannot be paused: only queued and running jobs can"
        )
    _stamp(session, job, "pause_requested_at")
    append(session, job, "request", {"request": "pause"})
    settle(session, job)
    return job


def resume(session: Session, job_id: str) -> Job:
    """Take back a pause: a paused job is queued again, one that was about to pause goes on.

    A job that is not paused stays as it is.

    Raises:
        NotFound: there is no such job.
        StateConflict: it has ended.
    """
    job = lock_job(session, job_id)
    if job.terminal:
        raise StateConflict(f"job {job_id} has already {job.state}: there is nothing to resume")
    if job.pause_requested_at is None:
        return job
    job.pause_requested_at = None
    append(session, job, "request", {"request": "resume"})
    if job.state == State.PAUSED:
        move(session, job, State.QUEUED)
    waiting = select(Work.id).where(Work.job_id == job_id, Work.state == WorkState.READY)
    for work_id in session.scalars(waiting.order_by(Work.id)).all():
        announce(session, work_id)
    return job


def trials_of(
    session: Session,
    job_id: str,
    *,
    limit: int | None = 100,
    after: int = -1,
    finished: bool = False,
) -> Sequence[Trial]:
    """The job's trials numbered above `after`, in order, at most `limit` if there is one.

    Args:
        finished: leave out those that wait or run.
    """
    query = select(Trial).where(Trial.job_id == job_id, Trial.number > after)
    if finished:
        query = query.where(Trial.finished_at.is_not(None))
    return session.scalars(query.order_by(Trial.number).limit(limit)).all()


def get_trial(session: Session, job_id: str, number: int) -> Trial:
    """The trial of that number of a job.

    Raises:
        NotFound: there is none.
    """
    trial = session.get(Trial, (job_id, number))
    if trial is None:
        get_job(session, job_id)
        raise NotFound(
            f"job {job_id} has no trial {number}: GET /v1/jobs/{job_id}/trials lists them"
        )
    return trial


def kept_trials(session: Session, job_id: str) -> list[int]:
    """Numbers of the trials whose networks can be made again, ascending; see `Trial.fetchable`."""
    query = select(Trial.number).where(
        Trial.job_id == job_id,
        Trial.score.is_not(None),
        or_(Trial.weights.is_not(None), Trial.tuning_steps == 0),
    )
    return list(session.scalars(query.order_by(Trial.number)))


def artifacts_of(session: Session, job_id: str) -> Sequence[Artifact]:
    """The job's published files by name; none before it succeeded."""
    return session.scalars(
        select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)
    ).all()


def get_artifact(session: Session, job_id: str, name: str) -> Artifact:
    """The result file of that name of a job.

    Raises:
        NotFound: there is none.
    """
    artifact = session.get(Artifact, (job_id, name))
    if artifact is None:
        raise NotFound(f"job {job_id} has no artifact {name!r}: {_instead(session, job_id, name)}")
    return artifact


def _instead(session: Session, job_id: str, name: str) -> str:
    """What to do without an artifact that is not there. Raises: NotFound."""
    job = get_job(session, job_id)
    if job.state == State.SUCCEEDED:
        there = ", ".join(artifact.name for artifact in artifacts_of(session, job_id)) or "none"
        how = f"; {name} comes with strategy.points above 0" if name == "curve.json" else ""
        return f"it has {there}{how}"
    if job.terminal:
        return f"it is {job.state} and will have none: submit another job"
    return f"it is {job.state}: wait until it has succeeded"


def _stamp(session: Session, job: Job, column: str) -> None:
    setattr(job, column, session.scalar(select(clock_s())))
    session.flush()
