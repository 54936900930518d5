"""The best of several random plans, each of them just under the budget.

In an independent replication of AMC on ResNet-20, random policies that meet the budget came
within 0.3 points of the agent's best after fine-tuning; EagleEye (Li et al. 2020,
arXiv:2007.02491) beats AMC with them. So this is the control for every search that is cleverer.

A plan's keep ratios are `u ** spread` for independent uniform `u`, with the spread itself drawn
for each plan: near 0 the plan is almost uniform, near 1 it is bold. The ratios are scaled by one
common factor to meet the budget, and what rounding leaves goes to the groups in random order.
"""

from __future__ import annotations

import numpy as np

from search.space import Plan
from search.strategies.base import Problem
from search.strategies.fitting import fit, widen
from search.strategies.independent import Independent
from search.strategy_specs import RandomSpec


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


class RandomSearch(Independent):
    """As many `random_plan`s as the specification asks for."""

    def __init__(self, config: RandomSpec, problem: Problem) -> None:
        super().__init__(config.name, config.trials, lambda number: random_plan(problem, number))
