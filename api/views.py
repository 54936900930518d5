"""What the service tells of single things. Fields may be added; clients ignore unknown ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from search.description import ExcludedView, NetworkDescription


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class FileView(View):
    """An uploaded file."""

    id: str
    name: str
    sha256: str
    size_bytes: int
    created_at: datetime


class NetworkView(FileView):
    """An uploaded network."""

    description: NetworkDescription


class DatasetView(FileView):
    """An uploaded dataset."""

    description: dict[str, Any] = Field(description="splits, shapes, element types and classes")


class TargetView(View):
    """A runtime on a device of the workers."""

    id: str
    runtime: str = Field(description="for `target.runtime` of a job")
    version: str
    device: dict[str, Any] = Field(
        description="what it computes on; its `id` is for `target.device` of a job"
    )
    offered: bool = Field(description="whether a worker offers it now")
    seen_at: datetime = Field(description="when a worker last did")


class TargetList(View):
    items: list[TargetView]


class TrialView(View):
    """One plan that was tried."""

    number: int = Field(description="counts from 0 in the job")
    state: str = Field(
        description="open, done, failed, or dropped: not measured when its job ended"
    )
    plan: tuple[int, ...] = Field(description="channels kept per group, in the network's order")
    parent: int | None = Field(description="the trial whose weights it started from")
    tuning_steps: int
    score: float | None = Field(description="higher is better; null until measured")
    metrics: dict[str, float]
    cost: dict[str, int]
    tags: dict[str, Any] = Field(description="the strategy's facts about it")
    kept: bool = Field(description="whether its network can be fetched")


class ListedTrialView(TrialView):
    """A trial among the others of its job."""

    front: bool | None = Field(
        description="whether no other trial is as good in all of `strategy.objectives` and better "
        "in one; null if the search has one objective"
    )


class JobError(View):
    """Why a job failed."""

    code: str
    message: str


class JobWarningView(View):
    """Something that looks wrong in what a job was given or gave, though it goes on."""

    code: str
    message: str = Field(description="what was found, what it may come from, and the way out")


class JobWidthsView(View):
    """What the widths follow from that a job's groups may keep."""

    target: dict[str, Any] = Field(description="on which they run fast")
    chains: int = Field(description="chains of layers whose times they follow from")
    measured: int = Field(description="how many were timed for this job; earlier ones left others")
    finer: tuple[str, ...] = Field(
        description="groups that may keep widths that are no faster than wider ones, since these "
        "would have left them none"
    )
    needed: tuple[str, ...] = Field(
        description="groups that may keep such widths since only they are within the budget"
    )


class JobView(View):
    """A compression job."""

    id: str
    name: str | None
    state: str = Field(
        description="queued, running, paused, finalizing, succeeded, failed, canceled"
    )
    terminal: bool = Field(description="whether the state is final")
    stage: str | None = Field(description="what it is doing: prepare, search, tune, finalize")
    progress: float = Field(ge=0, le=1, description="of the whole job")
    waiting_for: str | None = Field(
        description="what keeps it from going on, as `disk: no room left (blob store)`; it goes on "
        "by itself when that has passed, and no attempt is counted"
    )
    version: int = Field(description="grows with every change")
    trials: int = Field(description="trials measured so far")
    best: TrialView | None = Field(description="the best trial so far")
    error: JobError | None
    warnings: tuple[JobWarningView, ...] = Field(
        description="found when the job was prepared, before the search, or in what was measured "
        "of its result"
    )
    widths: JobWidthsView | None = Field(
        description="with rounding.multiple auto, once prepared; null in jobs of earlier versions"
    )
    summary: dict[str, Any] | None = Field(
        description="before and after, once succeeded: accuracy, costs, and `timings`, each with "
        "the runtime, threads, batch, interval, and the ratio of MACs, as in metrics.json (jobs of "
        "earlier versions have `latency_s` instead, of PyTorch at batch 1); `seconds` is how long "
        "the job's steps took, added up over all workers, without waiting and lost attempts"
    )
    cancel_requested: bool
    pause_requested: bool
    created_at: datetime
    updated_at: datetime
    spec: dict[str, Any] = Field(description="the specification as it was accepted")


class EventView(View):
    """Something that happened to a job."""

    number: int = Field(description="counts from 1 in the job, without gaps")
    kind: str
    at: datetime
    data: dict[str, Any]


class ArtifactView(View):
    """A result file."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


class LimitView(View):
    """One limit of a budget in absolute numbers."""

    limit: int
    original: int = Field(description="cost of the network as it is")
    smallest: int = Field(
        description="the least that the job's rounding can reach; with rounding.multiple auto that "
        "of all widths, since groups that a budget needs others of may keep these"
    )


class GroupWidthsView(View):
    """The widths that a channel group may keep."""

    name: str
    channels: int
    widths: tuple[int, ...] = Field(description="ascending; the full width always")


class WidthsView(View):
    """The widths that channel groups may keep."""

    target: dict[str, Any] | None = Field(
        description="with rounding.multiple auto, what the times of layers are of from which the "
        "widths follow, left by earlier jobs; null if it is a number"
    )
    groups: tuple[GroupWidthsView, ...]
    finer: tuple[str, ...] = Field(
        (),
        description="groups that may keep widths that are no faster than wider ones, since these "
        "would have left them none",
    )
    needed: tuple[str, ...] = Field(
        (), description="groups that may keep such widths since only they are within the budget"
    )


class ShareView(View):
    """A channel group's share of the network, in the layers that make or read its channels."""

    name: str
    channels: int
    macs: float = Field(description="0 to 1; a layer between two groups counts for both")
    time: float | None = Field(
        description="told from the times of layers, scaled to have the share of the MACs over all "
        "groups timed; null where it is not known"
    )


class SharesView(View):
    """Where a network's MACs and its time are."""

    target: dict[str, Any] | None = Field(
        description="what the times are of; null where no jobs have left those of all layers on "
        "the target offered"
    )
    groups: tuple[ShareView, ...]


class ValidationView(View):
    """What a job would do; nothing was started."""

    spec: dict[str, Any] = Field(description="the specification, defaults filled in")
    budget: dict[str, LimitView]
    groups: int = Field(description="how many decisions the search has")
    without_choice: tuple[ExcludedView, ...] = Field(
        description="the groups among them that the rounding leaves nothing but their full width"
    )
    widths: WidthsView | None = Field(
        description="that groups may keep; null where rounding.multiple is auto and they follow "
        "from a measurement when the job is prepared"
    )
