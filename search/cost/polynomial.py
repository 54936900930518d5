"""Exact integer polynomials in the plan, evaluated for many plans at once.

Every size in a network is affine in the plan (`space.Affine`), so every cost is a sum of
products of sizes, and with it a polynomial with integer coefficients in the channels kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.cost.terms import Terms
from search.space import Affine, Plan

Monomial = tuple[int, ...]
"""Group indices, ascending; an index that occurs twice stands for a square, `()` for one."""

Polynomial = Mapping[Monomial, int]
"""Coefficients by monomial; zero coefficients are absent."""

EXACT = 2**53
"""Up to here float64 holds every integer, so BLAS computes with integers exactly."""

Floats = NDArray[np.float64]


def product(scale: int, sizes: Sequence[Affine], terms: Terms) -> Polynomial:
    """`scale` times the product of `sizes`.

    Raises:
        NetworkTooLarge: it has more terms than are left.
    """
    terms.spend(math.prod(1 + len(size.terms) for size in sizes))
    result: dict[Monomial, int] = {(): scale}
    for size in sizes:
        factors = (((), size.constant), *(((group,), n) for group, n in size.terms))
        step: Counter[Monomial] = Counter()
        for monomial, coefficient in result.items():
            for factor, n in factors:
                step[tuple(sorted(monomial + factor))] += coefficient * n
        result = {monomial: n for monomial, n in step.items() if n}
    return result


def total(parts: Iterable[Polynomial]) -> Polynomial:
    """The sum of polynomials."""
    result: Counter[Monomial] = Counter()
    for part in parts:
        for monomial, coefficient in part.items():
            result[monomial] += coefficient
    return {monomial: n for monomial, n in result.items() if n}


def magnitude(polynomial: Polynomial, plan: Plan) -> int:
    """Sum of the absolute values of the terms at `plan`: bounds every partial sum there."""
    return sum(
        abs(coefficient) * math.prod(plan[group] for group in monomial)
        for monomial, coefficient in polynomial.items()
    )


def undominated(polynomials: Iterable[Polynomial], terms: Terms) -> list[Polynomial]:
    """Those polynomials that can be the largest: no other has all coefficients at least as great.

    Sound where no coefficient is negative, since every monomial is positive then.

    Raises:
        NetworkTooLarge: they take more comparisons than are left.
    """
    distinct = {frozenset(item.items()): item for item in polynomials}
    # A dominating polynomial has the larger sum of coefficients, so it is met first.
    ordered = sorted(distinct.values(), key=lambda item: -sum(item.values()))
    found: list[Polynomial] = []
    having: dict[Monomial, list[Polynomial]] = {}
    for item in ordered:
        # What dominates it has all of its monomials, so also the one that the fewest have.
        rivals = min((having.get(monomial, []) for monomial in item), key=len, default=found)
        terms.spend(len(rivals) * len(item))
        if not any(
            all(other.get(monomial, 0) >= n for monomial, n in item.items()) for other in rivals
        ):
            found.append(item)
            for monomial in item:
                having.setdefault(monomial, []).append(item)
    return found


def with_one(plans: NDArray[np.int64]) -> Floats:
    """`(P, G)` plans as `(P, 1 + G)` factors: a column of ones before the channels kept."""
    factors = np.ones((plans.shape[0], 1 + plans.shape[1]))
    factors[:, 1:] = plans
    return factors


def _columns(factors: Floats, monomials: Sequence[Monomial]) -> Floats:
    """`(P, M)` values of the monomials."""
    columns = np.empty((factors.shape[0], len(monomials)))
    for index, monomial in enumerate(monomials):
        columns[:, index] = factors[:, [group + 1 for group in monomial]].prod(axis=1)
    return columns


class Sum:
    """One polynomial: its terms up to degree two as a quadratic form, the others one by one."""

    def __init__(self, polynomial: Polynomial, groups: int, terms: Terms) -> None:
        terms.table(1 + groups, 1 + groups)
        self._quadratic = np.zeros((1 + groups, 1 + groups))
        higher: dict[Monomial, int] = {}
        for monomial, coefficient in polynomial.items():
            if len(monomial) > 2:
                higher[monomial] = coefficient
            else:
                row, column = (0, 0, *(group + 1 for group in monomial))[-2:]
                self._quadratic[row, column] = coefficient
        self._monomials = tuple(higher)
        self._weights = np.array(list(higher.values()), dtype=np.float64)

    def __call__(self, factors: Floats) -> Floats:
        """`(P,)` values at `(P, 1 + G)` factors."""
        values: Floats = np.einsum("pg,pg->p", factors @ self._quadratic, factors)
        if self._monomials:
            values += _columns(factors, self._monomials) @ self._weights
        return values


class Maximum:
    """The largest of several polynomials whose coefficients are not negative.

    Attributes:
        kept: those that can be the largest.
    """

    def __init__(self, polynomials: Iterable[Polynomial], groups: int, terms: Terms) -> None:
        self.kept = kept = undominated(polynomials, terms)
        monomials = dict.fromkeys(monomial for item in kept for monomial in item)
        self._higher = tuple(monomial for monomial in monomials if len(monomial) > 1)
        column = {monomial: 1 + groups + i for i, monomial in enumerate(self._higher)}
        terms.table(len(kept), 1 + groups + len(self._higher))
        self._rows = np.zeros((len(kept), 1 + groups + len(self._higher)))
        for row, item in zip(self._rows, kept, strict=True):
            for monomial, coefficient in item.items():
                at = column[monomial] if len(monomial) > 1 else (0, *(g + 1 for g in monomial))[-1]
                row[at] = coefficient

    def __call__(self, factors: Floats) -> Floats:
        """`(P,)` values at `(P, 1 + G)` factors."""
        if self._higher:
            factors = np.concatenate([factors, _columns(factors, self._higher)], axis=1)
        values: Floats = (factors @ self._rows.T).max(axis=1)
        return values
