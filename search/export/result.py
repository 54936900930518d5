"""A finished search and its winner: what the exports are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from search.cost import Choices, without_choice
from search.evaluation.evaluator import Evaluator
from search.records import JobWarning, Staircase, Trial
from search.space import Exclusion, Kept, Plan, SearchSpace
from search.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Control:
    """The uniform plan of the same budget, scored like a trial, not fine-tuned; for comparison.

    Attributes:
        metrics: on the hold-out.
    """

    plan: Plan
    cost: Mapping[str, int]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished search.

    Attributes:
        evaluator: of the job; knows the original, the data and the specification.
        network: the winner, pruned and fine-tuned, as it is handed out.
        kept: its channels.
        winner: number of its trial.
        choices: the widths that each group might keep.
        limits: the budget in absolute numbers.
        before: cost of the original.
        after: cost of the winner, by the cost model.
        trials: the whole history, in the order of the numbers.
        control: the uniform plan of the same budget.
        history: of the fine-tuning, one entry an epoch, the untuned start as epoch 0.
        levels: what each group loses at each width, where an earlier job has measured it.
        warnings: what looked wrong when the job was prepared.
        staircase: the times that the choices follow from; `None` with a number as rounding.
    """

    evaluator: Evaluator
    network: GraphModule
    kept: Kept
    winner: int
    choices: Choices
    limits: Mapping[str, int]
    before: Mapping[str, int]
    after: Mapping[str, int]
    trials: Sequence[Trial]
    control: Control
    history: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    levels: Sequence[Sequence[float]] | None = None
    warnings: Sequence[JobWarning] = ()
    staircase: Staircase | None = None

    @property
    def spec(self) -> JobSpec:
        return self.evaluator.spec

    @property
    def space(self) -> SearchSpace:
        return self.evaluator.space

    @property
    def without_choice(self) -> tuple[Exclusion, ...]:
        """The groups that might keep nothing but their full width, and why."""
        return without_choice(self.space, self.choices, self.spec.rounding, self.spec.version)

    @property
    def plan(self) -> Plan:
        return tuple(map(len, self.kept))
