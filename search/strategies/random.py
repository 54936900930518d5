"""The best of several random plans, each of them just under the budget.

In an independent replication of AMC on ResNet-20, random policies that meet the budget came
within 0.3 points of the agent's best after fine-tuning; EagleEye (Li et al. 2020,
arXiv:2007.02491) beats AMC with them. So this is the control for every search that is cleverer.

A plan's keep ratios are `u ** spread` for independent uniform `u`, with the spread itself drawn
for each plan: near 0 the plan is almost uniform, near 1 it is bold. The ratios are scaled by one
common factor to meet the budget, and what rounding leaves goes to the groups in random order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.space import Plan
from search.spec import RandomSpec
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import fit, widen
from search.strategies.ledger import Leader, Ledger


def random_plan(problem: Problem, number: int) -> Plan:
    """The plan of one trial; a function of the problem's seed and the number alone.

    No group of it can be widened without exceeding the budget.
    """
    generator = np.random.default_rng(np.random.SeedSequence([problem.seed, number]))
    groups = len(problem.choices)
    spread = generator.random()
    ratios = (1.0 - generator.random(groups)) ** spread  # in (0, 1]
    plan = fit(problem.cost, problem.budget, problem.choices, ratios.tolist())
    order = generator.permutation(groups).tolist()
    return widen(problem.cost, problem.budget, problem.choices, plan, order)


class RandomSearch:
    """Independent trials: any number of them may run at once."""

    def __init__(self, config: RandomSpec, problem: Problem) -> None:
        self._trials = config.trials
        self._problem = problem
        self._ledger = Ledger(config.name)
        self._leader = Leader()

    @property
    def done(self) -> bool:
        return self._ledger.next_number == self._trials and not self._ledger.outstanding

    @property
    def fraction(self) -> float:
        return (self._ledger.next_number - len(self._ledger.outstanding)) / self._trials

    @property
    def best(self) -> int | None:
        return self._leader.number

    @property
    def needed(self) -> frozenset[int]:
        return frozenset()  # untuned: the plan is enough to make it again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        count = min(max(n, 0), self._trials - self._ledger.next_number)
        return [
            self._ledger.issue(random_plan(self._problem, self._ledger.next_number))
            for _ in range(count)
        ]

    def tell(self, outcome: Outcome, /) -> None:
        self._leader.offer(outcome.number, self._ledger.settle(outcome))

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self._ledger.state_dict(), "leader": self._leader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._leader.load_state_dict(state["leader"])
