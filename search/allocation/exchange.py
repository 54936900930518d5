"""Plans made feasible, and improved by changing one or two groups at a time.

A wider group never costs less and never loses more. So of all moves that set a group to some width
and change a second one, the best sets the second to the widest that the limits then leave: one
division for each width and second group, no search over pairs of widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.allocation.limits import Limits

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Exchange:
    """Moves among the allowed widths.

    Args:
        limits: exact up to degree two; of higher terms the moves see the second-order expansion,
            and every move is checked before it is made.
        choices: allowed widths per group, ascending.
        losses: of each group, at those widths; finite.
    """

    def __init__(
        self,
        limits: Limits,
        choices: Sequence[NDArray[np.int64]],
        losses: Sequence[Floats],
    ) -> None:
        self._limits = limits
        self._choices, self._losses = choices, losses
        sizes = [len(options) for options in choices]
        self._group = np.repeat(np.arange(len(choices)), sizes)  # of each width of each group
        self._width = np.concatenate(choices)
        self._loss = np.concatenate(losses)
        self._start = np.cumsum([0, *sizes[:-1]])
        self._most = np.array([options[-1] for options in choices])
        # For each group and number, the widest allowed width up to it, as an index into `_loss`;
        # where there is none, the one past its end, where `_padded` is infinite.
        floors = []
        for options, start in zip(choices, self._start, strict=True):
            at = np.searchsorted(options, np.arange(options[-1] + 1), side="right") - 1
            floors.append(np.where(at < 0, len(self._loss), start + at))
        self._floor = np.concatenate(floors).astype(np.int32)
        self._offset = np.cumsum([0, *(self._most + 1)[:-1]])
        self._padded = np.append(self._loss, np.inf)
        self._near = ~limits.lazy  # the limits that moves look at; more once they are exceeded

    def plan(self, indices: Indices) -> NDArray[np.int64]:
        """`(groups,)` widths."""
        return self._width[self._start + indices]

    def loss(self, indices: Indices) -> float:
        return float(self._loss[self._start + indices].sum())

    def repair(self, indices: Indices) -> Indices:
        """Narrow groups until all limits hold, at each step with the least loss for what it saves.

        The narrowest plan must be within the limits.
        """
        indices = indices.copy()
        most = np.maximum(self._limits.most, 1.0)[:, None]
        while not self._limits.admit(plan := self.plan(indices)):
            first, second = self._limits.derivatives(plan)
            step = self._width - plan[self._group]
            own = second[:, self._group, self._group]
            change = (first[:, self._group] + own * step / 2) * step
            over = (self._limits.values(plan) - self._limits.most)[:, None] + change
            over = np.maximum(over / most, 0.0).sum(axis=0)
            here = over[self._start + indices]
            saved = here[0] - over
            able = (self._width < plan[self._group]) & (saved > 0)
            lost = self._loss - self._loss[self._start + indices][self._group]
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.where(able, lost / saved, np.inf)
            best = int(np.argmin(rate))
            if not able[best]:  # the expansion sees no way, but the narrowest plan is one
                return np.zeros_like(indices)
            indices[self._group[best]] = best - self._start[self._group[best]]
        return indices

    def improve(self, indices: Indices) -> Indices:
        """Change one or two groups at a time as long as the loss falls; stays within the limits."""
        indices = indices.copy()
        while self._sweep(indices):
            pass
        return self._widen(indices)

    def widest(self, indices: Indices) -> Indices:
        """`(groups,)`: how wide each group may be if all others are as they are."""
        plan = self.plan(indices)
        return np.array([self._widest(plan, group) for group in range(len(plan))], np.intp)

    def _sweep(self, indices: Indices) -> bool:
        """Make the best move of each group, as far as they go together.

        Returns:
            whether to go on: a move was made, or failed at a limit not looked at so far.
        """
        plan = self.plan(indices)
        room = self._room(plan)
        room += plan
        np.clip(room, 0, self._most, out=room)  # width 0 stands for none
        room += self._offset
        index = self._floor[room.astype(np.int32)]
        now = self._loss[self._start + indices]
        gain = self._padded[index]
        gain -= now
        gain += (self._loss - now[self._group])[:, None]
        gain[np.arange(len(gain)), self._group] = np.inf
        least = -1e-12 * max(float(now.sum()), 1e-300)
        second = gain.argmin(axis=1)
        best = gain[np.arange(len(gain)), second]
        firsts = [
            int(start + np.argmin(best[start : start + len(options)]))
            for start, options in zip(self._start, self._choices, strict=True)
        ]
        touched: set[int] = set()
        overlooked = False
        for first in sorted(firsts, key=lambda first: (best[first], first)):
            pair = int(self._group[first]), int(second[first])
            if best[first] >= least:
                break
            if touched.intersection(pair):
                continue
            moved = indices.copy()
            moved[pair[0]] = first - self._start[pair[0]]
            moved[pair[1]] = index[first, pair[1]] - self._start[pair[1]]
            if self._limits.admit(self.plan(moved)):
                indices[:] = moved
                touched.update(pair)
                continue
            exceeded = self._limits.values(self.plan(moved)) > self._limits.most
            overlooked |= bool((exceeded & ~self._near).any())
            self._near |= exceeded
        return bool(touched) or overlooked

    def _room(self, plan: NDArray[np.int64]) -> Floats:
        """`(widths, groups)`: with a group at a width, how far each other may rise (must fall)."""
        first, second = self._limits.derivatives(plan)
        step = (self._width - plan[self._group]).astype(np.float64)
        left = self._limits.most - self._limits.values(plan)
        room = np.full((len(step), len(plan)), np.inf)
        for row in np.flatnonzero(self._near):
            own = second[row].diagonal()[self._group]
            rest = (left[row] - (first[row][self._group] + own * step / 2) * step)[:, None]
            slope = first[row] + second[row][self._group] * step[:, None]
            square = np.diagonal(second[row])
            with np.errstate(divide="ignore", invalid="ignore"):
                if square.any():  # the larger root of square/2 t^2 + slope t = rest
                    slope = (slope + np.sqrt(slope**2 + 2 * square * rest)) / 2
                root = rest / slope
            root = np.where(np.isnan(root), np.where(rest < 0, -np.inf, np.inf), root)
            np.minimum(room, np.floor(root + 1e-9), out=room)
        return room

    def _widen(self, indices: Indices) -> Indices:
        """Use up what is left, the group whose loss falls most first."""
        while True:
            plan = self.plan(indices)
            moves = []
            for group, options in enumerate(self._choices):
                at = self._widest(plan, group)
                if at > indices[group]:
                    gain = self._losses[group][at] - self._losses[group][indices[group]]
                    moves.append((float(gain), -options[at], group, at))
            if not moves:
                return indices
            _, _, group, at = min(moves)
            indices[group] = at

    def _widest(self, plan: NDArray[np.int64], group: int) -> int:
        """Index of the widest width of a group that the limits admit, all others as they are."""
        low = int(np.searchsorted(self._choices[group], plan[group]))
        high = len(self._choices[group]) - 1
        trial = plan.copy()
        while low < high:
            middle = (low + high + 1) // 2
            trial[group] = self._choices[group][middle]
            if self._limits.admit(trial):
                low = middle
            else:
                high = middle - 1
        return low
