"""Events of a job: appended with the change they tell of, numbered without gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from models.base import clock_s
from models.event import Event
from models.job import Job


def append(session: Session, job: Job, kind: str, data: Mapping[str, Any]) -> int:
    """Append an event to a job.

    The counter's row stays locked until the commit, so that numbers are handed out in the order
    of commits and a number rolled back is used again.

    Args:
        kind: `state`, `prepared`, `warning`, `trial`, `progress`, `request`, `retry`,
            `waiting`, `waited` or `artifacts`.
        data: JSON values.
    Returns:
        The event's number.
    """
    number: int
    number, updated_at = session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(last_event=Job.last_event + 1, updated_at=clock_s())
        .returning(Job.last_event, Job.updated_at)
        .execution_options(synchronize_session=False)
    ).one()
    session.execute(insert(Event).values(job_id=job.id, number=number, kind=kind, data=dict(data)))
    set_committed_value(job, "last_event", number)
    set_committed_value(job, "updated_at", updated_at)
    return number


def events_after(session: Session, job_id: str, number: int, limit: int = 500) -> Sequence[Event]:
    """The job's events after `number` (0: from the first), in order, at most `limit`."""
    return session.scalars(
        select(Event)
        .where(Event.job_id == job_id, Event.number > number)
        .order_by(Event.number)
        .limit(limit)
    ).all()
