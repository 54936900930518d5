"""The Lagrangian dual: the best lower bound that prices on the limits give, by cutting planes.

H. Everett, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
Resources", Operations Research 11 (1963): with a price on each unit of cost, the plan with the
least loss and payment for what it costs above the limits bounds the loss of every plan within them
from below. As a function of the prices the bound is concave, and each plan found is a line above
it; the next prices are those where the lines so far promise most (J. E. Kelley, "The Cutting-Plane
Method for Solving Convex Programs", Journal of the SIAM 8, 1960).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOLERANCE = 1e-7
"""Of the bound, relative: how much more the lines may promise when the search for prices ends."""
HIGHEST = 1e6
"""A price, as a multiple of the largest loss: where only the narrowest plan fits, any would do."""


@dataclass(frozen=True, slots=True)
class Line:
    """A plan, as an upper bound on the dual.

    Attributes:
        indices: `(groups,)` into the widths.
        excess: `(limits,)`, cost above the limit as a share of the limit; negative below.
    """

    indices: NDArray[np.intp]
    loss: float
    excess: Floats

    @property
    def fits(self) -> bool:
        """Whether the plan is within all limits."""
        return not (self.excess > 0).any()

    def at(self, prices: Floats) -> float:
        """The loss, and the payment for the excess."""
        return float(self.loss + self.excess @ prices)


@dataclass(frozen=True, slots=True)
class Dual:
    """The best bound found.

    Attributes:
        lines: all plans met.
        tight: those of them that meet at the best prices.
    """

    bound: float
    lines: tuple[Line, ...]
    tight: tuple[Line, ...]


def maximise(
    cheapest: Callable[[Floats], Line],
    known: Sequence[Line],
    lazy: NDArray[np.bool_],
    rounds: int,
) -> Dual:
    """The highest point of the dual, or a point close to it.

    Args:
        cheapest: the plan with the least loss and payment at some prices.
        known: plans; the first is within all limits, the second exceeds one.
        lazy: `(limits,)`, which get a price only once a plan exceeds them.
        rounds: how many prices are tried at most. A few suffice for one limit, many do not always
            for many.
    """
    lines = list(known)
    exceeded = np.array([line.excess for line in lines]).max(axis=0)
    active = (exceeded > 0) & ~lazy
    if not active.any():
        active = exceeded == exceeded.max()
    seen = {line.indices.tobytes() for line in lines}
    bound = 0.0  # without prices, since no loss is negative
    promise, prices = _best_prices(lines, active)
    for _ in range(rounds):
        if promise - bound <= TOLERANCE * promise:
            break
        line = cheapest(prices)
        bound = max(bound, line.at(prices))
        more = (line.excess > 0) & ~active
        if line.indices.tobytes() in seen and not more.any():
            break
        active |= more
        seen.add(line.indices.tobytes())
        lines.append(line)
        promise, prices = _best_prices(lines, active)
    heights = np.array([line.at(prices) for line in lines])
    near = heights <= heights.min() + 1e-6 * abs(heights.min())
    tight = tuple(line for line, meets in zip(lines, near, strict=True) if meets)
    return Dual(bound, tuple(lines), tight)


def _best_prices(lines: Sequence[Line], active: NDArray[np.bool_]) -> tuple[float, Floats]:
    """The highest point under all lines, and the prices `(limits,)` there; 0 where not active."""
    losses = np.array([line.loss for line in lines])
    excess = np.array([line.excess for line in lines])[:, active]
    prices = np.zeros(len(active))
    one = excess.shape[1] == 1
    prices[active] = _crossing(losses, excess[:, 0]) if one else _programme(losses, excess)
    return float((losses + excess @ prices[active]).min()), prices


def _crossing(losses: Floats, excess: Floats) -> float:
    """For one price: of the crossings of rising and falling lines, the highest under all lines."""
    rising, falling = excess > 0, excess < 0
    if not falling.any():
        return HIGHEST * float(losses.max())
    ahead = losses[falling] - losses[rising][:, None]
    crossings = (ahead / (excess[rising][:, None] - excess[falling])).ravel()
    crossings = np.append(np.maximum(crossings, 0.0), 0.0)
    heights = (losses + np.outer(crossings, excess)).min(axis=1)
    return float(crossings[np.argmax(heights)])


def _programme(losses: Floats, excess: Floats) -> Floats:
    """For several prices: a linear programme.

    The narrowest plan may lose a billion times what the best one does, and the solver's tolerance
    is absolute: so the unit is the smallest loss within the limits, and rows of greater losses are
    scaled down to it.
    """
    from scipy.optimize import linprog  # slow, and the API imports the strategies

    within = losses[(losses > 0) & ~(excess > 0).any(axis=1)]
    unit = float(within.min()) if len(within) else 1.0
    size = np.maximum(losses / unit, 1.0)
    rows = np.hstack([-excess, np.ones((len(losses), 1))]) / size[:, None]
    goal = np.append(np.zeros(excess.shape[1]), -1.0)
    highest = HIGHEST * size.max()
    bounds = [(0.0, highest)] * excess.shape[1] + [(None, None)]
    found = linprog(goal, A_ub=rows, b_ub=losses / unit / size, bounds=bounds, method="highs")
    if found.x is None:
        raise RuntimeError(f"HiGHS found no prices: {found.message}")
    prices: Floats = np.maximum(found.x[:-1], 0.0) * unit
    return prices
