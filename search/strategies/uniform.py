"""The same keep ratio everywhere: one proposal, the control of every other strategy."""

from __future__ import annotations

from search.strategies.base import Problem
from search.strategies.fitting import uniform_plan
from search.strategies.independent import Independent
from search.strategy_specs import UniformSpec


class Uniform(Independent):
    """Proposes `fitting.uniform_plan` and is done."""

    def __init__(self, config: UniformSpec, problem: Problem) -> None:
        super().__init__(
            config.name, 1, lambda _: uniform_plan(problem.cost, problem.budget, problem.choices)
        )
