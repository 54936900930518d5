"""The transitions of a job, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from models.base import clock_s
from models.errors import StateConflict
from models.events import append
from models.job import TERMINAL, Job, State

_ENDS = frozenset({State.FAILED, State.CANCELED})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED}) | _ENDS,
    State.RUNNING: frozenset({State.FINALIZING, State.PAUSED}) | _ENDS,
    State.PAUSED: frozenset({State.QUEUED}) | _ENDS,
    State.FINALIZING: frozenset({State.SUCCEEDED}) | _ENDS,
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
}


def move(session: Session, job: Job, to: State, **facts: Any) -> None:
    """Bring a job to a state and append the event `state` with `from`, `to` and the facts.

    Raises:
        StateConflict: the table does not allow it, or another transaction moved the job first.
    """
    before = State(job.state)
    if to not in TRANSITIONS[before]:
        allowed = ", ".join(sorted(TRANSITIONS[before])) or "nothing: it has ended"
        raise StateConflict(
            f"job {job.id} is {before} and cannot become {to}; what can follow is {allowed}"
        )
    times: dict[str, Any] = {}
    if to is State.RUNNING and job.started_at is None:
        times["started_at"] = clock_s()
    if to in TERMINAL:
        times["finished_at"] = clock_s()
    moved = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.state == before)
        .values(state=to, **times)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).first()
    if moved is None:
        session.refresh(job)
        raise StateConflict(f"job {job.id} became {job.state} meanwhile: look again")
    session.refresh(job, ["state", *times])
    append(session, job, "state", {"from": before, "to": to, **facts})
