"""The same keep ratio everywhere: one proposal, the control of every other strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.spec import UniformSpec
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import uniform_plan
from search.strategies.ledger import Leader, Ledger


class Uniform:
    """Proposes `fitting.uniform_plan` and is done."""

    def __init__(self, config: UniformSpec, problem: Problem) -> None:
        self._problem = problem
        self._ledger = Ledger(config.name)
        self._leader = Leader()

    @property
    def done(self) -> bool:
        return self._ledger.next_number == 1 and not self._ledger.outstanding

    @property
    def fraction(self) -> float:
        return float(self.done)

    @property
    def best(self) -> int | None:
        return self._leader.number

    @property
    def needed(self) -> frozenset[int]:
        return frozenset()  # untuned: the plan is enough to make it again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        if n < 1 or self._ledger.next_number > 0:
            return ()
        problem = self._problem
        plan = uniform_plan(problem.cost, problem.budget, problem.choices)
        return (self._ledger.issue(plan),)

    def tell(self, outcome: Outcome, /) -> None:
        self._leader.offer(outcome.number, self._ledger.settle(outcome))

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self._ledger.state_dict(), "leader": self._leader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._leader.load_state_dict(state["leader"])
