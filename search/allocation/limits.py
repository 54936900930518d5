"""The limits of a budget, each as a polynomial that must not exceed a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.cost import Budget, CostModel
from search.cost.polynomial import Monomial, Polynomial
from search.space import Plan

Floats = NDArray[np.float64]


class Limits:
    """Polynomials with a limit each; of those that some plan can exceed.

    Numbers stay below 2**53, so that float64 counts exactly.

    Args:
        widest: the widest plan that is asked about.

    Attributes:
        polynomials: a cost that is a maximum has several.
        most: `(polynomials,)` limits.
        lazy: `(polynomials,)`, whether it is one of several of a maximum.
    """

    def __init__(self, cost: CostModel, budget: Budget, widest: Plan) -> None:
        groups = len(widest)
        self.polynomials: list[Polynomial] = []
        most, lazy = [], []
        for name, limit in budget.limits.items():
            parts = cost.polynomials(name)
            for part in parts:
                if _value(part, widest) > limit:
                    self.polynomials.append(part)
                    most.append(limit)
                    lazy.append(len(parts) > 1)
        self.most = np.array(most, dtype=np.float64)
        self.lazy = np.array(lazy, dtype=np.bool_)
        count = len(self.polynomials)
        self._constant = np.zeros(count)
        self._linear = np.zeros((count, groups))
        self._quadratic = np.zeros((count, groups, groups))  # each pair once
        self._higher: list[tuple[int, Monomial, int]] = []
        for row, polynomial in enumerate(self.polynomials):
            for monomial, coefficient in polynomial.items():
                match monomial:
                    case ():
                        self._constant[row] = coefficient
                    case (group,):
                        self._linear[row, group] = coefficient
                    case (a, b):
                        self._quadratic[row, a, b] = coefficient
                    case _:
                        self._higher.append((row, monomial, coefficient))
        self._second = self._quadratic + self._quadratic.transpose(0, 2, 1)

    def values(self, plan: NDArray[np.int64]) -> Floats:
        """`(polynomials,)` at a plan `(groups,)`."""
        x = plan.astype(np.float64)
        values: Floats = self._constant + self._linear @ x + (self._quadratic @ x) @ x
        for row, monomial, coefficient in self._higher:
            values[row] += coefficient * math.prod(x[list(monomial)])
        return values

    def derivatives(self, plan: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """First `(polynomials, groups)` and second `(polynomials, groups, groups)` ones."""
        x = plan.astype(np.float64)
        first, second = self._linear + self._second @ x, self._second
        if self._higher:
            second = second.copy()
        for row, monomial, coefficient in self._higher:
            for i, a in enumerate(monomial):
                others = monomial[:i] + monomial[i + 1 :]
                first[row, a] += coefficient * math.prod(x[list(others)])
                for j, b in enumerate(others):
                    rest = list(others[:j] + others[j + 1 :])
                    second[row, a, b] += coefficient * math.prod(x[rest])
        return first, second

    def admit(self, plan: NDArray[np.int64]) -> bool:
        """Whether a plan `(groups,)` is within all limits."""
        return bool((self.values(plan) <= self.most).all())


def _value(polynomial: Polynomial, plan: Sequence[int]) -> int:
    return sum(
        coefficient * math.prod(plan[group] for group in monomial)
        for monomial, coefficient in polynomial.items()
    )
