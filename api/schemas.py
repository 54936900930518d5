"""Requests and pages, and rows as views. What single things look like is in `api.views`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from api.views import (
    ArtifactView,
    DatasetView,
    EventView,
    JobError,
    JobView,
    JobWarningView,
    JobWidthsView,
    ListedTrialView,
    NetworkView,
    TrialView,
)
from models.artifact import Artifact
from models.dataset import Dataset
from models.event import Event
from models.job import Job, State
from models.network import Network
from models.trial import Trial
from search.description import NetworkDescription
from search.versions import with_version

log = logging.getLogger(__name__)
Row = TypeVar("Row", Network, Dataset, Job)
V = TypeVar("V")

_CURSOR = Field(description="give it as `cursor` for what follows; null at the end")


class NetworkPage(BaseModel):
    items: list[NetworkView]
    next_cursor: str | None = _CURSOR


class DatasetPage(BaseModel):
    items: list[DatasetView]
    next_cursor: str | None = _CURSOR


class JobPage(BaseModel):
    items: list[JobView]
    next_cursor: str | None = _CURSOR


class TrialPage(BaseModel):
    items: list[ListedTrialView]
    next_cursor: str | None = _CURSOR


class EventList(BaseModel):
    items: list[EventView]


class ArtifactList(BaseModel):
    items: list[ArtifactView]


# How much of a whole job each stage is, roughly; what counts is that progress never goes back.
_STAGES = {
    "queued": (0.0, 0.0),
    "prepare": (0.0, 0.05),
    "search": (0.05, 0.60),
    "tune": (0.60, 0.90),
    "finalize": (0.90, 1.0),
}


def moment(seconds: float) -> datetime:
    """A time of the database, in UTC, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def progress(job: Job) -> float:
    """The share of the whole job that is done, 0 to 1."""
    if job.state == State.SUCCEEDED:
        return 1.0
    start, end = _STAGES.get(job.stage, (0.0, 0.0))
    return round(start + (end - start) * min(1.0, max(0.0, job.fraction)), 4)


def shown(rows: Iterable[Row], view: Callable[[Row], V]) -> list[V]:
    """Views of those rows that can be shown: one that cannot breaks no list, and is logged."""
    found = []
    for row in rows:
        try:
            found.append(view(row))
        except Exception:  # whatever is wrong with it
            log.exception("%s cannot be shown", row.id)
    return found


def network_view(row: Network) -> NetworkView:
    return NetworkView(
        id=row.id,
        name=row.name,
        sha256=row.digest,
        size_bytes=row.size_bytes,
        created_at=moment(row.created_at),
        description=NetworkDescription.model_validate(row.description),
    )


def dataset_view(row: Dataset) -> DatasetView:
    return DatasetView(
        id=row.id,
        name=row.name,
        sha256=row.digest,
        size_bytes=row.size_bytes,
        created_at=moment(row.created_at),
        description=row.description,
    )


def trial_view(row: Trial, *, ended: bool) -> TrialView:
    """A trial, as clients see it.

    Args:
        ended: whether its job has; what was not measured by then never will be.
    """
    if row.finished_at is None:
        state = "dropped" if ended else "open"
    else:
        state = "failed" if row.score is None else "done"
    return TrialView(
        number=row.number,
        state=state,
        plan=tuple(row.plan),
        parent=row.parent,
        tuning_steps=row.tuning_steps,
        score=row.score,
        metrics=row.metrics or {},
        cost=row.cost or {},
        tags=row.tags,
        kept=row.fetchable,
    )


def listed_trial_view(row: Trial, front: Collection[int] | None, *, ended: bool) -> ListedTrialView:
    """A trial in a list.

    Args:
        front: numbers of the trials on the front; `None` if the search has one objective.
    """
    ahead = None if front is None else row.number in front
    return ListedTrialView(**trial_view(row, ended=ended).model_dump(), front=ahead)


def job_view(row: Job, best: Trial | None, trials: int, waiting_for: str | None) -> JobView:
    """A job, as clients see it.

    Args:
        best: the best trial so far.
        trials: how many were measured.
        waiting_for: what has to pass before it goes on.
    """
    error = None
    if row.error_code is not None:
        error = JobError(code=row.error_code, message=row.error or "")
    return JobView(
        id=row.id,
        name=row.name,
        state=row.state,
        terminal=row.terminal,
        stage=row.stage,
        progress=progress(row),
        waiting_for=waiting_for,
        version=row.last_event,
        trials=trials,
        best=None if best is None else trial_view(best, ended=row.terminal),
        error=error,
        warnings=tuple(JobWarningView.model_validate(item) for item in row.warnings or ()),
        widths=None if row.widths is None else JobWidthsView.model_validate(row.widths),
        summary=row.summary,
        cancel_requested=row.cancel_requested_at is not None,
        pause_requested=row.pause_requested_at is not None,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        # It may have been asked for under the id of another upload of the same bytes.
        spec=with_version(row.spec) | {"network": row.network_id, "dataset": row.dataset_id},
    )


def event_view(row: Event) -> EventView:
    return EventView(number=row.number, kind=row.kind, at=moment(row.created_at), data=row.data)


def artifact_view(row: Artifact) -> ArtifactView:
    return ArtifactView(
        name=row.name, media_type=row.media_type, size_bytes=row.size_bytes, sha256=row.digest
    )


def example_spec() -> dict[str, Any]:
    """A specification for the documentation."""
    return {
        "network": "net_01k2m3n4p5q6r7s8t9v0w1x2y3",
        "dataset": "data_01k2m3n4p5q6r7s8t9v0w1x2y3",
        "budget": {"macs": "50%"},
        "strategy": {"name": "allocate", "points": 4},
        "finetune": {"epochs": 3},
        "name": "digits at half the MACs",
    }
