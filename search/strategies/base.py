"""What a search strategy is: two calls, and a state that can be stored.

A strategy sees costs and scores, never tensors of the pruned network. It knows nothing of
databases, processes or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from search.cost import Budget
from search.space import Plan, SearchSpace

IntArray = NDArray[np.int64]
Solve = Literal["draft", "full"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan to try.

    Attributes:
        number: counts the strategy's proposals from 0; the trial's number.
        plan: channels kept per group.
        parent: number of the trial whose weights and kept channels it starts from; `None` for the
            original network.
        tuning_steps: gradient steps before it is scored.
        tags: facts for the reader of the history (NetAdapt's iteration and group, say).
        floor: the score to beat: with `evaluation.racing`, a trial that is clearly below it is
            given up after some of the hold-out. `None` asks for all of it.
        solve: its layers are solved one after the other on the cut network's own inputs, with a
            part of the calibration examples (`"draft"`), or with all of them, and the weights are
            kept with the trial (`"full"`). `None` leaves it to `evaluation.reconstruction`; so
            does any other where that is `"none"`, or there are no calibration examples.
        levels_of: a group that the plan narrows alone, whose loss at every width is wanted; the
            trial's own score is then of a part of the hold-out.
    """

    number: int
    plan: Plan
    parent: int | None = None
    tuning_steps: int = 0
    tags: Mapping[str, int | float | str] = field(default_factory=dict)
    floor: float | None = None
    solve: Solve | None = None
    levels_of: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a proposal.

    Attributes:
        number: the proposal's.
        plan: the proposal's.
        score: higher is better (a loss is negated); `None` if the trial failed for good.
        metrics: everything measured on the hold-out, by name.
        cost: of the plan, by name.
        losses: of a trial with `levels_of`: what keeping 1, 2, ... channels of the group loses.
    """

    number: int
    plan: Plan
    score: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
    losses: tuple[float, ...] | None = None


class CostFunction(Protocol):
    """What a plan costs, exactly; never less for a wider plan. `search.cost.CostModel` is one."""

    def of(self, plan: Plan, /) -> Mapping[str, int]:
        """The costs of one plan, by name."""
        ...

    def many(
        self, plans: IntArray, /, names: Sequence[str] | None = None
    ) -> Mapping[str, IntArray]:
        """The costs of plans `(p, groups)`, each `(p,)`; all of them, or those that are named."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """What a strategy has to solve.

    Attributes:
        cost: of a plan.
        budget: what the winner's cost must admit.
        choices: allowed widths per group, ascending; the last one is the group's full width.
        seed: of every random choice.
        baseline: score of the original network, on the scale of `Outcome.score`.
        space: the network that the groups belong to, if there is one.
        levels: the losses of every group, `Outcome.losses`, where another search has measured them.
    """

    cost: CostFunction
    budget: Budget
    choices: tuple[tuple[int, ...], ...]
    seed: int
    baseline: float
    space: SearchSpace | None = None
    levels: tuple[tuple[float, ...], ...] | None = None

    @property
    def full(self) -> Plan:
        """The plan that keeps everything."""
        return tuple(options[-1] for options in self.choices)


class Strategy(Protocol):
    """Proposes plans until it is done.

    Every strategy passes `tests/conformance`: its plans admit the budget; restored from
    `state_dict` it goes on as if never interrupted; it is deterministic under its seed.
    """

    @property
    def done(self) -> bool:
        """Whether the search is over: no proposal is outstanding, and no further one will come."""
        ...

    @property
    def fraction(self) -> float:
        """How far the search has come, 0 to 1; never falls."""
        ...

    @property
    def best(self) -> int | None:
        """Number of the trial that leads so far; once done the winner, which is within the budget.

        `None` once done means that no trial within the budget succeeded.
        """
        ...

    @property
    def needed(self) -> frozenset[int]:
        """Trials whose tuned weights may still be a parent's or the winner's."""
        ...

    def ask(self, n: int, /) -> Sequence[Proposal]:
        """Up to `n` new proposals; none while it waits for outcomes."""
        ...

    def tell(self, outcome: Outcome, /) -> None:
        """Take an outcome, in any order, each once.

        Raises:
            ValueError: the proposal is not outstanding, or its plan was another.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `ask` and `tell` changed, as JSON values, the generator included."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from a stored state; the settings must be those it was made with.

        Raises:
            ValueError: the state is another strategy's.
        """
        ...
