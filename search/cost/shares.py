"""What share of a network's MACs, and of its time on a target, each channel group has.

A group's MACs are those of the layers that make or read its channels: all that would go with it. A
layer between two groups counts for both. Its time is that of the same layers, told from those that
were timed (`search.cost.staircase`): seconds per MAC, between the widths that were timed
interpolated, times the group's MACs. Shares of the time are scaled so that the groups that were
timed have together the same share in the original as of the MACs: so a group whose share of the
time is the larger one has slow layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.cost.model import CostModel
from search.cost.staircase import Probe, Stair
from search.space import Plan


@dataclass(frozen=True, slots=True)
class Share:
    """Of one group, beside the original network's total.

    Attributes:
        macs, time: of the plan; the time is `None` for groups that were not timed.
    """

    macs: float
    time: float | None


def macs_around(cost: CostModel, plan: Plan) -> tuple[int, ...]:
    """Of each group the MACs at `plan` that would go with its channels."""
    found = [0] * len(plan)
    (polynomial,) = cost.polynomials("macs")
    for monomial, coefficient in polynomial.items():
        value = coefficient * math.prod(plan[group] for group in monomial)
        for group in set(monomial):
            found[group] += value
    return tuple(found)


def shares_of(cost: CostModel, stairs: Sequence[Stair], plans: Sequence[Plan]) -> list[list[Share]]:
    """Of each plan, the share of every group.

    Args:
        stairs: of the groups that were timed, with all others whole and at half.
    """
    space, total = cost.space, max(1, cost.full["macs"])
    full = space.full
    rates = _rates(cost, stairs)
    whole = macs_around(cost, full)
    timed = sum(whole[group] for group in rates)
    seconds = sum(whole[group] * rate[-1][1] for group, rate in rates.items())
    scale = timed / seconds / total if seconds else 0.0
    found = []
    for plan in plans:
        around = macs_around(cost, plan)
        shares = []
        for group, macs in enumerate(around):
            time = None
            if group in rates:
                time = scale * macs * _rate(cost, rates[group], group, plan, macs)
            shares.append(Share(macs / total, time))
        found.append(shares)
    return found


_Rates = list[tuple[int, float, float]]
"""Width, and seconds per MAC with all other groups whole, and at half."""


def _rates(cost: CostModel, stairs: Sequence[Stair]) -> dict[int, _Rates]:
    """By group; none for groups that were not timed, or at other widths than now would be."""
    by_name = {stair.group: stair for stair in stairs}
    found: dict[int, _Rates] = {}
    rungs = Probe(cost.space).rungs if stairs else ()
    for index, (group, each) in enumerate(zip(cost.space.groups, rungs, strict=bool(rungs))):
        stair = by_name.get(group.name)
        if stair is None or tuple(rung.width for rung in each) != stair.widths:
            continue
        rates = []
        for rung, seconds in zip(each, stair.seconds, strict=True):
            macs = [sum(chain.macs * count for chain, count in level) for level in rung.chains]
            first, second = (s / max(1, m) for s, m in zip(seconds, macs, strict=True))
            rates.append((rung.width, first, second))
        found[index] = rates
    return found


def _rate(cost: CostModel, rates: _Rates, group: int, plan: Plan, macs: int) -> float:
    """Seconds per MAC of the layers around a group at a plan.

    Args:
        macs: around the group at the plan.
    """
    width, full = plan[group], cost.space.full

    def around(others: Plan) -> int:
        return macs_around(cost, (*others[:group], width, *others[group + 1 :]))[group]

    most, half = around(full), around(tuple(max(1, channels // 2) for channels in full))
    whole = 1.0 if most == half else min(1.0, max(0.0, (macs - half) / (most - half)))
    widths, first, second = zip(*rates, strict=True)
    at_full, at_half = (float(np.interp(width, widths, values)) for values in (first, second))
    return whole * at_full + (1 - whole) * at_half
