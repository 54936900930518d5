"""Which widths lose least within a budget: exact costs, and a certificate of how good the plan is.

Every allowed width of every group has a loss, the losses add up, and costs are the exact
polynomials of the cost model. In this setting SPDY (Frantar and Alistarh, ICML 2022,
arXiv:2201.13096, section 3) runs a dynamic programme over layers and discretised time; it needs
costs that add up over the layers, and those of channels do not: they are products of neighbouring
widths. Here prices on the limits take the place of the discretised budget:

    sums of groups as variables of their own     `terms`
    the cheapest plan at given prices, exactly   `elimination`
    the best prices                              `dual`
    a plan within the limits, and better ones    `exchange`
    what gap is left, by dividing widths         `branching`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.allocation.branching import Branching
from search.allocation.elimination import Elimination
from search.allocation.limits import Limits
from search.allocation.terms import Terms, forms_of, terms_of
from search.cost import Budget, Choices, CostModel, check_reachable
from search.space import Plan

Floats = NDArray[np.float64]

BOXES = 16
"""Parts of the search space that are looked into at most."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A plan within the budget.

    Attributes:
        plan: channels kept per group.
        loss: the sum of the plan's losses.
        bound: no plan within the budget has a smaller loss, up to the rounding of float64.
    """

    plan: Plan
    loss: float
    bound: float


class Allocator:
    """Allocates one budget for any losses.

    Args:
        cost: of the network.
        choices: allowed widths per group, ascending.
        elements: how many numbers the tables of the elimination may hold; where they would be more
            (many groups, each coupled with many), the bound takes neighbouring widths for one. It
            stays valid and gets weaker; the plan is still improved over all widths.

    Raises:
        UnreachableBudget: no allowed plan is within the budget.
    """

    def __init__(
        self, cost: CostModel, budget: Budget, choices: Choices, *, elements: int = 4_000_000
    ) -> None:
        check_reachable(cost, budget, choices)
        self._cost, self._budget = cost, budget
        self._widths = [np.array(options, dtype=np.int64) for options in choices]
        widest = tuple(options[-1] for options in choices)
        self._limits = Limits(cost, budget, widest)
        shapes = [*cost.space.stored_shapes.values()]
        shapes += [
            tuple(extent.size for extent in shape) for shape in cost.space.node_shapes.values()
        ]
        forms = forms_of(size for shape in shapes for size in shape)
        terms = terms_of(self._limits.polynomials, widest, forms)
        self._order, self._strides = _affordable(terms, self._widths, elements)

    def solve(
        self, losses: Sequence[Floats], *, boxes: int = BOXES, gap: float = 1e-3
    ) -> Allocation:
        """The plan with the smallest loss that was found.

        It is within the budget, and with any single group wider it would not be. If the costs have
        no terms above degree two, no change of one or two groups lowers its loss.

        Args:
            losses: of each group `(len(choices[group]),)`, not negative and never rising with the
                width; infinite for widths that must not be taken.
            boxes: how many parts of the search space are looked into at most.
            gap: share of the loss by which it may exceed the bound; at 0, `boxes` decides.
        Raises:
            ValueError: the losses are not of this kind.
            UnreachableBudget: no plan with a finite loss is within the budget.
        """
        usable = [
            _usable(group, np.asarray(loss, dtype=np.float64), len(options))
            for group, (loss, options) in enumerate(zip(losses, self._widths, strict=True))
        ]
        starts = [len(w) - len(loss) for w, loss in zip(self._widths, usable, strict=True)]
        widths = [w[start:] for w, start in zip(self._widths, starts, strict=True)]
        if any(starts):
            check_reachable(self._cost, self._budget, [options.tolist() for options in widths])
        if not len(self._limits.most):
            loss = float(sum(loss[-1] for loss in usable))
            return Allocation(tuple(int(options[-1]) for options in widths), loss, loss)
        search = Branching(self._limits, self._order, self._strides, widths, usable)
        search.grow(boxes, gap)
        plan = tuple(search.plan.tolist())
        return Allocation(plan, search.best.loss, search.bound)


def _usable(group: int, loss: Floats, count: int) -> Floats:
    """The finite losses, those of the wider widths."""
    if loss.shape != (count,):
        raise ValueError(f"group {group} has {count} allowed widths and {loss.shape} losses")
    if np.isnan(loss).any() or (loss < 0).any():
        raise ValueError(f"group {group} has losses that are negative or not a number")
    rises = np.flatnonzero(loss[1:] > loss[:-1])
    if rises.size:
        raise ValueError(
            f"the loss of group {group} rises with its width, after the allowed width number "
            f"{rises[0]}: give each width the least loss of all widths up to it"
        )
    if np.isinf(loss[-1]):
        raise ValueError(f"group {group} has no allowed width with a finite loss")
    return loss[np.isfinite(loss)]


def _affordable(
    terms: Terms, widths: Sequence[NDArray[np.int64]], elements: int
) -> tuple[Elimination, list[int]]:
    """An order of elimination, and how many widths of each group count as one in it."""
    strides = [1] * len(widths)
    while True:
        kept = [w[::n].astype(np.float64) for w, n in zip(widths, strides, strict=True)]
        order = Elimination(terms, kept)
        most = max(range(len(kept)), key=lambda group: len(kept[group]), default=0)
        if order.elements <= elements or len(kept[most]) == 1:
            return order, strides
        strides[most] *= 2
