"""The exact minimum of losses and weighted costs over all plans.

Forward through the steps of an `Elimination`, each leaves a table; backward, the values of what
went are found again (as in Viterbi's algorithm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.allocation.elimination import Elimination, Step, outer_sum, with_sums

Floats = NDArray[np.float64]
Indices = Mapping[int, NDArray[np.intp]]
"""For each variable the indices of its values, in arrays that broadcast against each other."""


def hull(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Indices of the corners of the lower convex hull of points, `x` ascending."""
    kept = np.arange(len(x))
    while len(kept) > 2:
        slopes = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
        corner = np.ones(len(kept), np.bool_)
        corner[1:-1] = slopes[:-1] < slopes[1:]  # the others lie on or above a chord
        if corner.all():
            break
        kept, x, y = kept[corner], x[corner], y[corner]
    return kept


@dataclass(frozen=True, slots=True)
class _LinearPart:
    """The terms of a linear step.

    Attributes:
        alone: rows of the monomials that are its variable.
        joint: rows of the others.
        factors: `(joint, elements)`, these divided by the variable, over the step's scope.
        shape: of that scope's table.
    """

    alone: tuple[int, ...]
    joint: NDArray[np.intp]
    factors: Floats
    shape: tuple[int, ...]


class Minimiser:
    """The minimum for given losses and any weights of the costs.

    Args:
        order: of elimination.
        widths: of each group, ascending; may be fewer than `order` was made for.
        losses: of each group, at those widths; finite.
    """

    def __init__(
        self, order: Elimination, widths: Sequence[Floats], losses: Sequence[Floats]
    ) -> None:
        self._order = order
        # With all others fixed, the cost is linear in a group that occurs in no power, so a corner
        # of its losses' hull is as good as any width.
        kept = [
            hull(x, y) if order.linear[group] else np.arange(len(x))
            for group, (x, y) in enumerate(zip(widths, losses, strict=True))
        ]
        self._kept = kept
        self._losses = [y[at] for y, at in zip(losses, kept, strict=True)]
        self._values = with_sums(
            [x[at] for x, at in zip(widths, kept, strict=True)], order.terms.sums
        )
        self._pairs: dict[int, NDArray[np.intp]] = {}  # of each sum: index at its parts' indices
        for variable, item in order.sums.items():
            sums = outer_sum(self._values, item)
            self._pairs[variable] = np.searchsorted(self._values[variable], sums)
        self._lines = {
            number: self._linear_part(step)
            for number, step in enumerate(order.steps)
            if step.linear
        }

    def __call__(self, weights: Floats) -> NDArray[np.intp]:
        """`(groups,)` indices into the widths of a minimum of losses plus weighted costs.

        Args:
            weights: `(polynomials,)`, not negative.
        """
        coefficients = self._order.terms.coefficients @ weights
        steps = self._order.steps
        tables: list[Floats] = []  # that the steps leave behind
        own: dict[int, Floats] = {}  # of linear steps, what involves their variable alone
        for number, step in enumerate(steps):
            if step.linear:
                own[number] = self._own(step, self._lines[number], coefficients, tables)
                tables.append(self._envelope(step, self._lines[number], own[number], coefficients))
            elif step.sum is None:
                axes = self._mesh((*step.gone, *step.scope))
                tables.append(self._joint(step, coefficients, tables, axes).min(axis=0))
            else:
                tables.append(self._merged(step, step.sum, coefficients, tables))
        found: dict[int, NDArray[np.intp]] = {}
        for number in reversed(range(len(steps))):
            step = steps[number]
            if step.linear:
                slope = self._slope_at(step, coefficients, found)
                at = np.argmin(own[number] + slope * self._values[step.gone[0]])
                found[step.gone[0]] = np.asarray(at)
            elif step.sum is None:
                joint = self._joint(step, coefficients, tables, found | self._mesh(step.gone))
                found[step.gone[0]] = np.asarray(np.argmin(joint))
            else:
                left, right = np.nonzero(self._pairs[step.sum] == found[step.sum])
                parts = dict(zip(step.gone, (left, right), strict=True))
                joint = self._joint(step, coefficients, tables, found | parts)
                best = np.argmin(np.broadcast_to(joint, left.shape))
                found |= {v: np.asarray(index[best]) for v, index in parts.items()}
        return np.array([self._kept[g][found[g]] for g in range(len(self._kept))], np.intp)

    def _linear_part(self, step: Step) -> _LinearPart:
        """What of a linear step does not depend on weights."""
        (variable,) = step.gone
        mesh = self._mesh(step.scope)
        shape = tuple(len(self._values[other]) for other in step.scope)
        alone, joint, factors = [], [], []
        for row in step.terms:
            others = list(self._order.terms.monomials[row])
            others.remove(variable)
            if others:
                joint.append(row)
                factors.append(np.broadcast_to(self._product(1.0, others, mesh), shape))
            else:
                alone.append(row)
        stacked = np.array(factors).reshape(len(factors), math.prod(shape))
        return _LinearPart(tuple(alone), np.array(joint, np.intp), stacked, shape)

    def _own(
        self, step: Step, part: _LinearPart, coefficients: Floats, tables: Sequence[Floats]
    ) -> Floats:
        """`(values,)`: what involves a linear step's variable alone."""
        (variable,) = step.gone
        values = self._values[variable]
        own = self._losses[variable] if variable < len(self._losses) else np.zeros(len(values))
        for number in step.tables:
            own = own + tables[number]
        for row in part.alone:
            own = own + coefficients[row] * values
        return own

    def _envelope(self, step: Step, part: _LinearPart, own: Floats, coefficients: Floats) -> Floats:
        """The least over a linear step's variable, over the step's scope."""
        x, y = self._values[step.gone[0]], own
        if step.tables:  # otherwise the hull is that of the losses
            corners = hull(x, y)
            x, y = x[corners], y[corners]
        slope = coefficients[part.joint] @ part.factors
        at = np.searchsorted((y[1:] - y[:-1]) / (x[1:] - x[:-1]), -slope)
        envelope: Floats = (y[at] + x[at] * slope).reshape(part.shape)
        return envelope

    def _slope_at(self, step: Step, coefficients: Floats, found: Indices) -> float:
        """What each unit of a linear step's variable costs, the others being known."""
        slope = 0.0
        for row in step.terms:
            monomial = self._order.terms.monomials[row]
            if len(monomial) > 1:
                factors = [self._values[v][found[v]] for v in monomial if v != step.gone[0]]
                slope += coefficients[row] * math.prod(factors)
        return slope

    def _merged(
        self, step: Step, variable: int, coefficients: Floats, tables: Sequence[Floats]
    ) -> Floats:
        """The least of all pairs with the same sum."""
        axes = self._mesh((*step.gone, *step.scope[1:]))
        shape = tuple(len(self._values[other]) for other in axes)
        pairs = self._pairs[variable]
        axes[variable] = pairs.reshape(pairs.shape + (1,) * (len(shape) - 2))
        joint = np.broadcast_to(self._joint(step, coefficients, tables, axes), shape)
        flat = pairs.ravel()
        order = np.argsort(flat, kind="stable")
        starts = np.searchsorted(flat[order], np.arange(len(self._values[variable])))
        rows = joint.reshape(len(flat), *shape[2:])[order]
        merged: Floats = np.minimum.reduceat(rows, starts, axis=0)
        return merged

    def _joint(
        self, step: Step, coefficients: Floats, tables: Sequence[Floats], axes: Indices
    ) -> Floats:
        """All that a step uses up, over the product of `axes`."""
        joint: Floats = np.zeros([1] * max((index.ndim for index in axes.values()), default=0))
        for variable in step.gone:
            if variable < len(self._losses):
                joint = joint + self._losses[variable][axes[variable]]
        for row in step.terms:
            monomial = self._order.terms.monomials[row]
            joint = joint + self._product(coefficients[row], monomial, axes)
        for number in step.tables:
            scope = self._order.steps[number].scope
            joint = joint + tables[number][tuple(axes[variable] for variable in scope)]
        return joint

    def _product(self, scale: float, monomial: Sequence[int], axes: Indices) -> Floats:
        values: Floats = np.asarray(scale, dtype=np.float64)
        for variable in monomial:
            values = values * self._values[variable][axes[variable]]
        return values

    def _mesh(self, variables: Sequence[int]) -> dict[int, NDArray[np.intp]]:
        """Every index of each variable, along an axis of its own."""
        rank = len(variables)
        return {
            variable: np.arange(len(self._values[variable])).reshape(
                (1,) * axis + (-1,) + (1,) * (rank - axis - 1)
            )
            for axis, variable in enumerate(variables)
        }
