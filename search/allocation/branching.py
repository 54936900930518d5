"""Branch and bound: where prices leave a gap, divide the widths of one group, and price again.

A. H. Land and A. G. Doig, "An Automatic Method of Solving Discrete Programming Problems",
Econometrica 28 (1960), with the Lagrangian dual as the bound (A. M. Geoffrion, "Lagrangean
Relaxation for Integer Programming", Mathematical Programming Study 2, 1974). The gap comes from
groups whose loss is not convex in the width: of such a group the dual takes a mixture of two
widths. Divided between them, each half has a convex hull of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search.allocation.dual import Line, maximise
from search.allocation.elimination import Elimination
from search.allocation.exchange import Exchange
from search.allocation.limits import Limits
from search.allocation.minimiser import Minimiser

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

ROUNDS, FEWER = 40, 10
"""How many prices are tried at most, in all plans and in a part of them."""


@dataclass(frozen=True, slots=True, order=True)
class _Box:
    """Plans between two.

    Attributes:
        bound: on the loss of those of them that are within the limits.
        number: counts the boxes.
        low, high: `(groups,)` first and last indices of the widths.
        lines: plans met.
        split: a group, and the index after which to divide its widths; `None` for none.
    """

    bound: float
    number: int
    low: Indices = field(compare=False)
    high: Indices = field(compare=False)
    lines: tuple[Line, ...] = field(compare=False)
    split: tuple[int, int] | None = field(compare=False)


class Branching:
    """The search for one plan.

    Args:
        limits: at least one.
        order: of elimination.
        strides: of each group, how many neighbouring widths the bound takes for one (the losses of
            the widest, the costs of the narrowest).
        widths: of each group, ascending; the narrowest plan is within the limits.
        losses: of each group, at those widths; finite.

    Attributes:
        best: the best plan so far.
    """

    def __init__(
        self,
        limits: Limits,
        order: Elimination,
        strides: Sequence[int],
        widths: Sequence[NDArray[np.int64]],
        losses: Sequence[Floats],
    ) -> None:
        self._limits, self._order, self._strides = limits, order, strides
        self._widths, self._losses = widths, losses
        self._exchange = Exchange(limits, widths, losses)
        self._tried: set[bytes] = set()
        self._boxes = 0
        low = np.zeros(len(widths), np.intp)
        high = np.array([len(options) - 1 for options in widths], np.intp)
        self.best = narrowest = self._line(low)
        self._open: list[_Box] = []
        self._add(low, high, (), 0.0)
        if self.best is narrowest:  # at least its equal can be had, that uses up what is left
            self._try(narrowest)

    @property
    def bound(self) -> float:
        """No plan within the limits has a smaller loss."""
        return min(self._open[0].bound, self.best.loss) if self._open else self.best.loss

    @property
    def plan(self) -> NDArray[np.int64]:
        """`(groups,)` widths of the best plan."""
        return self._exchange.plan(self.best.indices)

    def grow(self, boxes: int, gap: float) -> None:
        """Divide the box with the smallest bound, until there are `boxes` or the gap is closed."""
        while self._boxes < boxes and self.best.loss - self.bound > gap * self.best.loss:
            box = self._open[0]
            if box.split is None:
                break
            heapq.heappop(self._open)
            group, at = box.split
            high = box.high.copy()
            high[group] = at
            self._add(box.low, high, box.lines, box.bound)
            low = box.low.copy()
            low[group] = at + 1
            self._add(low, box.high, box.lines, box.bound)

    def _add(self, low: Indices, high: Indices, lines: Sequence[Line], bound: float) -> None:
        """Look into a box; keep it if it may hold a better plan.

        Args:
            lines: plans met so far, in the box or not.
            bound: on the loss in a larger box.
        """
        self._boxes += 1
        narrow = self._line(low)
        if not narrow.fits:
            return
        high = np.minimum(high, self._exchange.widest(low))
        wide = self._line(high)
        if wide.fits:
            self._try(wide)
            return
        spans = [
            np.arange(a, b + 1, stride)
            for a, b, stride in zip(low, high, self._strides, strict=True)
        ]
        ends = [np.append(span[1:] - 1, b) for span, b in zip(spans, high, strict=True)]
        minimiser = Minimiser(
            self._order,
            [w[span].astype(np.float64) for w, span in zip(self._widths, spans, strict=True)],
            [loss[end] for loss, end in zip(self._losses, ends, strict=True)],
        )
        scale = np.maximum(self._limits.most, 1.0)

        def cheapest(prices: Floats) -> Line:
            found = minimiser(prices / scale)
            indices = np.array([span[i] for span, i in zip(spans, found, strict=True)], np.intp)
            line = self._line(indices)
            least = [loss[end[i]] for loss, end, i in zip(self._losses, ends, found, strict=True)]
            return Line(indices, float(sum(least)), line.excess)

        inside = [x for x in lines if ((low <= x.indices) & (x.indices <= high)).all()]
        dual = maximise(
            cheapest, [narrow, wide, *inside], self._limits.lazy, FEWER if inside else ROUNDS
        )
        for line in dual.tight:
            self._try(line)
        box = _Box(
            max(dual.bound, bound), self._boxes, low, high, dual.lines, self._split(dual.tight)
        )
        if box.bound < self.best.loss:
            heapq.heappush(self._open, box)

    def _split(self, tight: Sequence[Line]) -> tuple[int, int] | None:
        """Of the group whose losses differ most among plans, the middle of its widths."""
        indices = np.array([line.indices for line in tight])
        losses = np.array([loss[indices[:, g]] for g, loss in enumerate(self._losses)])
        spread = losses.max(axis=1) - losses.min(axis=1)
        group = int(np.argmax(spread))
        if spread[group] <= 0:
            return None
        first, last = indices[:, group].min(), indices[:, group].max()
        widths = self._widths[group]
        middle = np.searchsorted(widths, (widths[first] + widths[last]) / 2, side="right") - 1
        return group, int(min(middle, last - 1))

    def _try(self, line: Line) -> None:
        """Make a plan feasible and improve it; keep it if it is the best."""
        if line.indices.tobytes() in self._tried:
            return
        self._tried.add(line.indices.tobytes())
        found = self._line(self._exchange.improve(self._exchange.repair(line.indices)))
        if found.loss <= self.best.loss:
            self.best = found

    def _line(self, indices: Indices) -> Line:
        excess = self._limits.values(self._exchange.plan(indices)) - self._limits.most
        loss = self._exchange.loss(indices)
        return Line(indices, loss, excess / np.maximum(self._limits.most, 1.0))
