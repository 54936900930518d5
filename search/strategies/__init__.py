"""Search strategies: what proposes plans. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search.cost import Budget, CostModel, check_reachable
from search.strategies.allocate import Allocate
from search.strategies.amc import Amc
from search.strategies.base import Problem, Strategy
from search.strategies.netadapt import NetAdapt
from search.strategies.optuna import OptunaSearch
from search.strategies.random import RandomSearch
from search.strategies.sensitivity import Sensitivity
from search.strategies.uniform import Uniform
from search.strategy_specs import (
    AllocateSpec,
    AmcSpec,
    NetAdaptSpec,
    OptunaSpec,
    RandomSpec,
    SensitivitySpec,
    StrategySpec,
    UniformSpec,
)

REGISTRY: dict[type[StrategySpec], Callable[[Any, Problem], Strategy]] = {
    UniformSpec: Uniform,
    RandomSpec: RandomSearch,
    NetAdaptSpec: NetAdapt,
    SensitivitySpec: Sensitivity,
    OptunaSpec: OptunaSearch,
    AmcSpec: Amc,
    AllocateSpec: Allocate,
}
"""What builds each strategy, by the type of its specification."""


def create(
    spec: StrategySpec,
    cost: CostModel,
    budget: Budget,
    choices: tuple[tuple[int, ...], ...],
    seed: int,
    *,
    baseline: float,
    levels: tuple[tuple[float, ...], ...] | None = None,
) -> Strategy:
    """The strategy that a specification asks for, at its start.

    Args:
        choices: allowed widths per group, ascending (`search.cost.choices_of`).
        baseline: score of the original network, higher is better.
        levels: see `Problem`.

    Raises:
        UnreachableBudget: even the narrowest plan exceeds the budget.
    """
    check_reachable(cost, budget, choices)
    problem = Problem(cost, budget, choices, seed, baseline, cost.space, levels)
    return REGISTRY[type(spec)](spec, problem)


__all__ = ["REGISTRY", "create"]
