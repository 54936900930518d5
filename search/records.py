"""What the steps of a job take and give: plain data, each with an exact form in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, TypeAdapter

from espalier.targets import Target
from search.cost.staircase import Stair
from search.space import Choices, Exclusion, Kept
from search.spec import JobSpec, RoundingSpec
from search.strategies.base import Outcome, Proposal, Solve

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


class Record:
    """Base of the records."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what `json.dumps` takes."""
        values: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_json` gave.

        Raises:
            pydantic.ValidationError: the values are no such record.
        """
        record: Self = _adapter(cls).validate_python(values)
        return record


@dataclass(frozen=True, slots=True)
class Inputs(Record):
    """A job: its specification, and the digests of the network's package and of the dataset."""

    spec: Annotated[JobSpec, BeforeValidator(JobSpec.stored)]
    network: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Group(Record):
    """A channel group's name and its full width."""

    name: str
    channels: int


@dataclass(frozen=True, slots=True)
class JobWarning(Record):
    """Something that looks wrong in what a job was given or gave, though the job goes on.

    Attributes:
        code: stable, for programs.
        message: what was found, what it may come from, and the way out.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class LossCurves(Record):
    """What each group loses at each width, as an earlier job of the same network and data found.

    Attributes:
        losses: of each group `(channels,)`, of keeping 1, 2, ...
        choices: the widths that were allowed; `None` where they followed from `rounding` and were
            not stored.
        rounding: what the earlier job asked for.
    """

    losses: tuple[tuple[float, ...], ...]
    choices: Choices | None
    rounding: RoundingSpec


@dataclass(frozen=True, slots=True)
class Staircase(Record):
    """What a target's times of the network's layers led to.

    Attributes:
        target: what was measured on.
        seconds: of one pass, by chain of layers (`search.cost.chains`).
        measured: how many chains were measured for this job; the others were known.
        stairs: the times by group and width.
        finer: groups that may keep widths that are no faster than wider ones, since these would
            have left them none.
        needed: groups that may keep such widths since only they are within the budget.
    """

    target: Target
    seconds: dict[str, float]
    measured: int
    stairs: tuple[Stair, ...]
    finer: tuple[str, ...]
    needed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared(Record):
    """What is known before the search.

    Attributes:
        baseline: metrics of the original network on the hold-out.
        score: the metric that the specification asks for, higher is better.
        cost: of the original, by name.
        limits: the budget in absolute numbers.
        smallest: cost of the narrowest plan allowed.
        groups: what can be pruned, in the order of a plan.
        excluded: what cannot, and why.
        graph: the network's graph as `graph.json` holds it, so that `advance` needs no file.
        choices: the widths that each group may keep, all that later steps go by; `None` in jobs
            that were prepared before these were stored: there they follow from the rounding.
        staircase: what the choices follow from where `rounding.multiple` is auto.
        levels: what each group loses at each width, where an earlier job has measured it.
        warnings: what looks wrong in the network or the data.
    """

    baseline: dict[str, float]
    score: float
    cost: dict[str, int]
    limits: dict[str, int]
    smallest: dict[str, int]
    groups: tuple[Group, ...]
    excluded: tuple[Exclusion, ...]
    graph: str
    choices: Choices | None = None
    staircase: Staircase | None = None
    levels: tuple[tuple[float, ...], ...] | None = None
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Advanced(Record):
    """Where the search stands.

    Attributes:
        state: of the strategy, for the next `advance`.
        proposals: the new ones.
        done: whether the search is over: all trials are told and no more will come.
        fraction: how far it has come, 0 to 1.
        best: number of the trial that leads so far; `None` once done means that no trial within
            the budget succeeded.
        needed: trials whose weights may still be asked for, ascending; all others' can go.
    """

    state: dict[str, Any]
    proposals: tuple[Proposal, ...]
    done: bool
    fraction: float
    best: int | None
    needed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrialResult(Record):
    """What became of a trial.

    Attributes:
        kept: the channels that stayed.
        weights: their digest if they were tuned or solved in full.
        solve: how they were solved for, see `Proposal`.
    """

    outcome: Outcome
    kept: Kept
    weights: str | None = None
    solve: Solve | None = None


@dataclass(frozen=True, slots=True)
class Trial(Record):
    """A line of the trial history: what was proposed and what became of it."""

    proposal: Proposal
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Tuned(Record):
    """A slice of fine-tuning.

    Attributes:
        done: whether it was the last one.
        checkpoint: digest of everything that the next slice, or `finalize`, needs.
        history: one entry an epoch so far.
    """

    done: bool
    checkpoint: str
    history: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Artifact(Record):
    """A file of the result."""

    name: str
    digest: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Finished(Record):
    """The result: files, verified, its figures, and what looks wrong in them."""

    artifacts: tuple[Artifact, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[JobWarning, ...] = ()
