"""In which order to eliminate variables, to find the minimum of losses and weighted costs.

R. Dechter, "Bucket Elimination: A Unifying Framework for Reasoning", Artificial Intelligence 113
(1999): collect everything that involves a variable, minimise over it, and put the table over its
neighbours in place. On a chain this is Viterbi's dynamic programme. Two things make it fast:

* Where a variable enters only linearly, with no table over it and others, the minimum over its
  widths `min_w U(w) + w s` depends on the others through one number `s` alone: the lower
  envelope of lines, read off the convex hull of `U` by bisection (a discrete Legendre transform).
* A sum of two variables replaces both: `min` over all pairs with the same sum.

The variable whose table is smallest goes next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.allocation.terms import SumOf, Terms

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """One elimination.

    Attributes:
        gone: the variable; or both parts of a sum that take its place.
        sum: the sum's variable, `None` where a variable is minimised over.
        scope: variables of the table left behind; a sum comes first.
        terms: positions of the monomials used up.
        tables: numbers of the steps whose tables are used up.
        linear: whether the table is a lower envelope.
    """

    gone: tuple[int, ...]
    sum: int | None
    scope: tuple[int, ...]
    terms: tuple[int, ...]
    tables: tuple[int, ...]
    linear: bool


class Elimination:
    """The order in which variables go; depends on what is coupled and on how many widths there are.

    Args:
        terms: what the weighted costs are sums of.
        widths: of each group, ascending.

    Attributes:
        linear: of each variable, whether it occurs in no power.
        elements: of all tables together, before anything is minimised over.
    """

    def __init__(self, terms: Terms, widths: Sequence[Floats]) -> None:
        self.terms = terms
        self.sums = dict(enumerate(terms.sums, terms.groups))
        self._sizes = [len(values) for values in with_sums(widths, terms.sums)]
        self.linear = [
            all(monomial.count(variable) < 2 for monomial in terms.monomials)
            for variable in range(len(self._sizes))
        ]
        self.elements = 0
        self.steps = self._order()

    def _order(self) -> list[Step]:
        """Greedily, the step with the smallest table first."""
        factors: dict[tuple[str, int], frozenset[int]] = {
            ("term", row): frozenset(monomial) for row, monomial in enumerate(self.terms.monomials)
        }
        pending = dict(self.sums)
        free = set(range(self.terms.groups))
        steps: list[Step] = []
        while free:
            parts = {part for item in pending.values() for part in item.parts}
            candidates = [self._eliminate(factors, v) for v in sorted(free - parts)]
            candidates += [
                self._merge(factors, variable, item)
                for variable, item in pending.items()
                if free.issuperset(item.parts)
            ]
            elements, step = min(candidates, key=lambda pair: pair[0])
            self.elements += elements
            free.difference_update(step.gone)
            if step.sum is not None:
                free.add(step.sum)
                del pending[step.sum]
            for row in step.terms:
                del factors["term", row]
            for number in step.tables:
                del factors["table", number]
            factors["table", len(steps)] = frozenset(step.scope)
            steps.append(step)
        return steps

    def _eliminate(
        self, factors: Mapping[tuple[str, int], frozenset[int]], variable: int
    ) -> tuple[int, Step]:
        used = [key for key, scope in factors.items() if variable in scope]
        scope = sorted(frozenset().union(*(factors[key] for key in used)) - {variable})
        tables = tuple(number for kind, number in used if kind == "table")
        terms = tuple(row for kind, row in used if kind == "term")
        linear = self.linear[variable] and all(len(factors["table", n]) == 1 for n in tables)
        elements = math.prod(self._sizes[other] for other in scope)
        elements *= 1 if linear else self._sizes[variable]
        return elements, Step((variable,), None, tuple(scope), terms, tables, linear)

    def _merge(
        self, factors: Mapping[tuple[str, int], frozenset[int]], variable: int, item: SumOf
    ) -> tuple[int, Step]:
        used = [key for key, scope in factors.items() if not scope.isdisjoint(item.parts)]
        rest = frozenset().union(*(factors[key] for key in used)) - {*item.parts, variable}
        elements = math.prod(self._sizes[other] for other in (*item.parts, *rest))
        tables = tuple(number for kind, number in used if kind == "table")
        terms = tuple(row for kind, row in used if kind == "term")
        scope = (variable, *sorted(rest))
        return elements, Step(item.parts, variable, scope, terms, tables, False)


def with_sums(widths: Sequence[Floats], sums: Sequence[SumOf]) -> list[Floats]:
    """The values of the groups, and then of their sums, ascending."""
    values = list(widths)
    for item in sums:
        values.append(np.unique(outer_sum(values, item)))
    return values


def outer_sum(values: Sequence[Floats], item: SumOf) -> Floats:
    """The values of a sum, along one axis for each of its parts."""
    (a, b), (left, right) = item.parts, item.scales
    return left * values[a][:, None] + right * values[b]
