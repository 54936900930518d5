"""Budgets: limits on costs, whether a plan is within them, and whether any plan can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from espalier.format.errors import EspalierError
from search.cost.model import CostModel
from search.space import smallest
from search.spec import BudgetSpec


class UnreachableBudget(EspalierError):
    """A budget that even the narrowest allowed plan exceeds.

    Attributes:
        smallest: the cost of the narrowest plan, by name.
    """

    code = "budget.unreachable"

    def __init__(self, message: str, smallest: Mapping[str, int]) -> None:
        super().__init__(message)
        self.smallest = dict(smallest)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on costs, by name; all of them hold at once."""

    limits: Mapping[str, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    @classmethod
    def resolve(cls, spec: BudgetSpec, full_cost: Mapping[str, int]) -> Budget:
        """Absolute limits from a specification; a share of the original is rounded down.

        Args:
            full_cost: the cost of the original network, by name.
        """
        limits: dict[str, int] = {}
        for name, limit in spec.limits().items():
            if isinstance(limit, str):
                share = Fraction(limit.removesuffix("%")) / 100
                limits[name] = math.floor(share * full_cost[name])
            else:
                limits[name] = limit
        return cls(limits)

    def admits(self, cost: Mapping[str, int]) -> bool:
        """Whether a cost is within every limit."""
        return all(cost[name] <= limit for name, limit in self.limits.items())

    def admits_many(self, costs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """`(P,)`: whether each plan's cost, `(P,)` by name, is within every limit."""
        admitted = np.ones(len(next(iter(costs.values()))), np.bool_)
        for name, limit in self.limits.items():
            admitted &= costs[name] <= limit
        return admitted


def smallest_cost(cost_model: CostModel, choices: Sequence[Sequence[int]]) -> dict[str, int]:
    """The cost of the narrowest plan, which no allowed plan undercuts in anything."""
    return cost_model.of(smallest(choices))


def check_reachable(
    cost_model: CostModel, budget: Budget, choices: Sequence[Sequence[int]]
) -> None:
    """See that the narrowest allowed plan is within the budget.

    Raises:
        UnreachableBudget: it is not; names each limit that is missed and what is reachable.
    """
    least = smallest_cost(cost_model, choices)
    missed = [
        f"{name} is limited to {limit:,}, the smallest reachable is {least[name]:,} "
        f"({math.ceil(1000 * least[name] / cost_model.full[name]) / 10:g}% of the original)"
        for name, limit in budget.limits.items()
        if least[name] > limit
    ]
    if missed:
        way_out = (
            "Raise the limit, or lower rounding.minimum and rounding.multiple"
            if choices
            else "No channel of this network can be pruned: what is excluded, and why, stands in "
            "its description"
        )
        raise UnreachableBudget(f"the budget cannot be met: {'; '.join(missed)}. {way_out}", least)
