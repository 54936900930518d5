"""Cost polynomials as few terms: products of groups and of sums of groups.

A convolution that reads a concatenation, or a residual sum of unequal parts, costs the product of
its own width and a *sum* of widths. Expanded into monomials, it couples its group with every
part, and all parts with each other once the group is eliminated. A variable for the sum keeps
the coupling narrow: a DenseNet's layer then sees one running sum and not all layers before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.cost.polynomial import Monomial, Polynomial
from search.space import Affine

Form = tuple[tuple[int, int], ...]
"""A sum of groups: pairs of (group, positions that each kept channel adds), groups ascending."""


@dataclass(frozen=True, slots=True)
class SumOf:
    """A variable that is `scales[0] * parts[0] + scales[1] * parts[1]`, parts being variables."""

    parts: tuple[int, int]
    scales: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Terms:
    """Polynomials over groups and sums of groups.

    Attributes:
        groups: how many; variables from this number on are `sums`, each after its parts.
        monomials: of variables, ascending; one that occurs twice stands for a square.
        coefficients: `(monomials, polynomials)`, the constant terms left out.
    """

    groups: int
    sums: tuple[SumOf, ...]
    monomials: tuple[Monomial, ...]
    coefficients: NDArray[np.float64]


def forms_of(sizes: Iterable[Affine]) -> list[Form]:
    """The distinct sums of two groups or more among a network's sizes, the longest first."""
    found = set()
    for size in sizes:
        if len(size.terms) > 1:
            unit = math.gcd(*(positions for _, positions in size.terms))
            found.add(tuple((group, positions // unit) for group, positions in size.terms))
    return sorted(found, key=lambda form: (-len(form), form))


def terms_of(
    polynomials: Sequence[Polynomial], full: Sequence[int], forms: Sequence[Form]
) -> Terms:
    """Polynomials with as much of them as possible written as products with sums.

    Args:
        full: the full width of each group.
        forms: the sums that may be used, the longest first.
    """
    expanded: dict[Monomial, NDArray[np.int64]] = {}
    for column, polynomial in enumerate(polynomials):
        for monomial, coefficient in polynomial.items():
            if monomial:
                none = np.zeros(len(polynomials), np.int64)
                expanded.setdefault(monomial, none)[column] = coefficient
    factored = _factor(expanded, forms, len(full))
    tree = _Tree(full)
    variables = {form: tree.variable(form) for form in sorted({f for _, f in factored}, key=len)}
    for (group, form), common in factored.items():
        variable = variables[form]
        if variable is not None:
            _add(expanded, (group, variable), common)
            continue
        for part, positions in form:
            _add(expanded, (min(group, part), max(group, part)), common * positions)
    monomials = tuple(sorted(expanded))
    table = np.zeros((len(monomials), len(polynomials)))
    for row, monomial in enumerate(monomials):
        table[row] = expanded[monomial]
    return Terms(len(full), tuple(tree.sums), monomials, table)


def _add(
    expanded: dict[Monomial, NDArray[np.int64]], monomial: Monomial, more: NDArray[np.int64]
) -> None:
    expanded[monomial] = expanded[monomial] + more if monomial in expanded else more


def _factor(
    expanded: dict[Monomial, NDArray[np.int64]], forms: Sequence[Form], groups: int
) -> Mapping[tuple[int, Form], NDArray[np.int64]]:
    """Products of a group and a sum, taken out of `expanded`."""
    found = {}
    for group in range(groups):
        for form in forms:
            pairs = [(min(group, part), max(group, part)) for part, _ in form]
            if not all(a != b and (a, b) in expanded for a, b in pairs):
                continue
            shares = [expanded[pair] // n for pair, (_, n) in zip(pairs, form, strict=True)]
            common = np.minimum.reduce(shares)
            if not common.any():
                continue
            found[group, form] = common
            for pair, (_, positions) in zip(pairs, form, strict=True):
                expanded[pair] = expanded[pair] - common * positions
                if not expanded[pair].any():
                    del expanded[pair]
    return found


class _Tree:
    """Sums of sums: a longer form is put together from the shorter ones that it contains."""

    def __init__(self, full: Sequence[int]) -> None:
        self.sums: list[SumOf] = []
        self._sizes = list(full)
        self._groups = len(full)
        self._roots: dict[int, dict[int, int]] = {g: {g: 1} for g in range(self._groups)}

    def variable(self, form: Form) -> int | None:
        """The variable of a form; `None` if it contains another form's parts only in part."""
        wanted = dict(form)
        parts = []
        for root, members in self._roots.items():
            if members.keys().isdisjoint(wanted):
                continue
            scales = {wanted.get(group, 0) / n for group, n in members.items()}
            scale = scales.pop()
            if scales or scale != int(scale):
                return None
            parts.append((self._sizes[root], root, int(scale)))
        while len(parts) > 1:  # the two smallest first, so that the tables stay small
            parts.sort()
            (_, a, left), (_, b, right) = parts[:2]
            parts[:2] = [self._merge(a, left, b, right)]
        return parts[0][1]

    def _merge(self, a: int, left: int, b: int, right: int) -> tuple[int, int, int]:
        variable = self._groups + len(self.sums)
        self.sums.append(SumOf((a, b), (left, right)))
        members = {group: n * left for group, n in self._roots.pop(a).items()}
        members |= {group: n * right for group, n in self._roots.pop(b).items()}
        self._roots[variable] = members
        self._sizes.append(
            min(self._sizes[a] * self._sizes[b], left * self._sizes[a] + right * self._sizes[b])
        )
        return self._sizes[variable], variable, 1
