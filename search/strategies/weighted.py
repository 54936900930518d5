"""Exact plans for weighted losses: the allocation that `allocate` searches around."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from search.allocation import BOXES, Allocator
from search.cost import Budget, CostModel
from search.space import Plan
from search.strategies.base import Problem

Floats = NDArray[np.float64]
Losses = tuple[float, ...]

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Weights:
    """What the losses are weighted by.

    Attributes:
        log_power, slope, coupling: see the module.
    """

    log_power: float
    slope: float
    coupling: float


class Weighted:
    """Plans of one network for any losses, weights and budgets."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        groups = len(problem.choices)
        self._depth = np.linspace(-0.5, 0.5, groups) if groups > 1 else np.zeros(groups)
        self._coupled = _coupled(problem)
        self._allocators: dict[tuple[tuple[str, int], ...], Allocator] = {}

    def plan(
        self,
        losses: Mapping[int, Losses | None],
        weights: Weights,
        budget: Budget,
        *,
        rough: bool = False,
    ) -> Plan:
        """The plan of the least weighted loss within a budget.

        Args:
            losses: by group, `(channels,)` of keeping 1, 2, ...; `None` where it is not known.
            rough: without the search of its neighbourhood that makes sure: mostly the same plan,
                in a tenth of the time.
        """
        key = tuple(sorted(budget.limits.items()))
        if key not in self._allocators:
            cost = cast(CostModel, self._problem.cost)  # the one cost function that is polynomial
            self._allocators[key] = Allocator(cost, budget, self._problem.choices)
        factors = np.exp(weights.slope * self._depth + weights.coupling * self._coupled)
        power = math.exp(weights.log_power)
        weighted = [
            _falling(factor * np.array([loss[width - 1] for width in options]) ** power)
            for factor, loss, options in zip(
                factors, _completed(self._problem, losses), self._problem.choices, strict=True
            )
        ]
        return self._allocators[key].solve(weighted, boxes=1 if rough else BOXES).plan


def _completed(problem: Problem, losses: Mapping[int, Losses | None]) -> list[Losses]:
    """The losses of every group; one that could not be measured loses as the others on average.

    By keep ratio; as much as it is narrowed where none could be measured.
    """
    # In the order of the groups: sums of floats depend on theirs.
    found = {group: loss for group, loss in sorted(losses.items()) if loss is not None}
    shares = np.linspace(0.05, 1, 20)
    curves = [
        np.interp(shares, np.arange(1, len(loss) + 1) / len(loss), loss)
        for loss in found.values()
        if len(loss) > 1
    ]
    mean = np.mean(curves, axis=0) if curves else 1 / shares - 1
    result = []
    for group, options in enumerate(problem.choices):
        ratios = np.arange(1, options[-1] + 1) / options[-1]
        guess = np.interp(ratios, shares, mean)
        result.append(found.get(group, tuple(guess.tolist())))
    return result


def _coupled(problem: Problem) -> Floats:
    """`(groups,)`: 1 where several layers read the group, as those of a residual stream."""
    if problem.space is None:
        return np.zeros(len(problem.choices))
    readers = (
        sum(member.role == "consumes" for member in group.members) for group in problem.space.groups
    )
    return np.array([float(count > 1) for count in readers])


def _falling(losses: Floats) -> Floats:
    """Losses that fall by a little at least with every width, so that what is left is used up."""
    steps = np.arange(len(losses) - 1, -1, -1, dtype=np.float64)
    lowest: Floats = np.maximum.accumulate(losses[::-1])[::-1] + _TINY * steps
    return lowest
