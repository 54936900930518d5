"""Plans that fit under limits: along a ray of keep ratios, and by widening what is left.

Everything here rests on one property of costs: a wider plan never costs less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from search.cost import Budget
from search.space import Plan
from search.strategies.base import CostFunction

Choices = Sequence[Sequence[int]]


def fit(cost: CostFunction, budget: Budget, choices: Choices, ratios: Sequence[float]) -> Plan:
    """The widest plan along a ray that the budget admits.

    The ray scales all keep ratios by one common factor: a group keeps the widest of its allowed
    widths that does not exceed `factor * ratio * full width`. The plans along the ray are a finite
    chain, searched by bisection.

    Args:
        choices: allowed widths per group, ascending; the last one is the full width.
        ratios: `(groups,)` keep ratios, positive; only their proportions matter.
    Returns:
        the plan; the narrowest one if nothing else is admitted.
    """
    steps = sorted(
        (width / (ratio * options[-1]), group)
        for group, (options, ratio) in enumerate(zip(choices, ratios, strict=True))
        for width in options[1:]
    )
    order = np.array([group for _, group in steps], dtype=np.int64)
    factors = np.array([factor for factor, _ in steps])
    counts = [0, *(np.flatnonzero(np.diff(factors, append=np.inf)) + 1).tolist()]

    def after(count: int) -> Plan:
        taken = np.bincount(order[:count], minlength=len(choices))
        return tuple(options[step] for options, step in zip(choices, taken, strict=True))

    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if budget.admits(cost.of(after(counts[middle]))):
            low = middle
        else:
            high = middle - 1
    return after(counts[low])


def widest(
    cost: CostFunction, budget: Budget, plan: Plan, group: int, options: Sequence[int]
) -> int | None:
    """The widest of some widths for one group that the budget admits, all others as they are.

    Args:
        options: ascending.
    Returns:
        the width; `None` if not even the narrowest is admitted.
    """
    if not options:
        return None
    plans = np.tile(np.array(plan, dtype=np.int64), (len(options), 1))
    plans[:, group] = options
    admitted = np.flatnonzero(budget.admits_many(cost.many(plans, tuple(budget.limits))))
    return options[int(admitted[-1])] if admitted.size else None


def widen(
    cost: CostFunction,
    budget: Budget,
    choices: Choices,
    plan: Plan,
    order: Iterable[int],
    *,
    steps: int | None = None,
) -> Plan:
    """A plan with the slack under the budget used up, one group after the other.

    Args:
        order: the groups, the first to be widened first.
        steps: allowed widths that a group may rise by; no limit if `None`. Without a limit, no
            group in `order` of the result can be widened any further.
    """
    for group in order:
        above = [width for width in choices[group] if width > plan[group]][:steps]
        width = widest(cost, budget, plan, group, above)
        if width is not None:
            plan = (*plan[:group], width, *plan[group + 1 :])
    return plan


def uniform_plan(cost: CostFunction, budget: Budget, choices: Choices) -> Plan:
    """The same keep ratio everywhere: the largest that the budget admits.

    A group keeps the widest of its allowed widths that does not exceed the ratio. What rounding
    then leaves under the budget goes to the groups in their order, one allowed width each at
    most. The control that every other strategy is compared with.

    Args:
        choices: allowed widths per group, ascending; the last one is the full width. The
            narrowest plan must be within the budget (`search.cost.check_reachable`).
    """
    plan = fit(cost, budget, choices, [1.0] * len(choices))
    return widen(cost, budget, choices, plan, range(len(choices)), steps=1)


def narrowed(choices: Choices, plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The allowed widths up to a plan's own."""
    return tuple(
        tuple(width for width in options if width <= most)
        for options, most in zip(choices, plan, strict=True)
    )
