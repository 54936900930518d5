"""What a search strategy is: two calls, and a state that can be stored.

A strategy sees costs and scores, never tensors of the pruned network. It knows nothing of
databases, processes or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from search.space import Plan


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
    """

    number: int
    plan: Plan
    parent: int | None = None
    tuning_steps: int = 0
    tags: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a proposal.

    Attributes:
        number: the proposal's.
        plan: the proposal's.
        score: higher is better (a loss is negated); `None` if the trial failed for good.
        metrics: everything measured on the hold-out, by name.
        cost: of the plan, by name.
    """

    number: int
    plan: Plan
    score: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)


class Strategy(Protocol):
    """Proposes plans until it is done.

    Every strategy passes `tests/conformance`: its plans admit the budget; restored from
    `state_dict` it goes on as if never interrupted; it is deterministic under its seed.
    """

    @property
    def done(self) -> bool:
        """Whether no further proposal will come, however many outcomes are told."""
        ...

    @property
    def best(self) -> int | None:
        """Number of the trial that wins so far, among those within the budget."""
        ...

    @property
    def needed(self) -> frozenset[int]:
        """Trials whose tuned weights may still be a parent's or the winner's."""
        ...

    def ask(self, n: int, /) -> Sequence[Proposal]:
        """Up to `n` new proposals; none while it waits for outcomes."""
        ...

    def tell(self, outcome: Outcome, /) -> None:
        """Take an outcome, in any order, each once."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `ask` and `tell` changed, as JSON values, the generator included."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from a stored state; the settings must be those it was made with."""
        ...
