"""Sensitivity curves of single groups, and the plan that tolerates the same drop in each of them.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710, section 3.2:
each layer is pruned on its own to several widths, and the accuracy of the otherwise whole network
is its sensitivity; section 3.3 prunes all layers at once. Han et al., "Learning both Weights and
Connections for Efficient Neural Networks", NIPS 2015, arXiv:1506.02626, section 5 and figure 6:
the same curves give each layer its threshold.

    for each group, for each level:          `single_cuts`
        prune this group alone, score        untuned trials from the original
    drop of each width                       `curve`
    one tolerated drop for all groups        `tolerate`, by bisection
    prune all groups at once, score          the final trial

Deviations from the papers:

1. Both set the widths by hand: Li et al. skip the sensitive layers and prune those of one stage
   alike, Han et al. set each layer's threshold. Here one tolerated drop `t` decides: each group
   keeps the narrowest allowed width whose drop is at most `t`, with the smallest `t` that the
   budget admits under all its limits.
2. A layer is a channel group, and a level is a share of its channels: the allowed width closest
   to the level is cut, of two the wider. A level whose width was cut already, or is the full
   one, is left out.
3. The drop is the original's score less the trial's, on the scale of the metric, which may be a
   loss. A curve begins with 0 at the full width. Scores are noisy, so the least-squares fit among
   the curves that never fall as the group narrows takes their place, at 0 where it is below.
   Between measured widths it is linear.
4. Accuracies tie: on a plateau, and at `t = 0` above all, one tolerance stands for many widths.
   So the bisection runs over pairs (drop, share of the group's channels removed), in this order:
   of groups with the same drop, the one that has lost the smaller share is narrowed first. A
   group whose curve is flat is thus cut as far as needed and no further, and a budget that the
   original meets cuts nothing.
5. A width whose trial failed has an infinite drop, and so has every narrower one. Widths below the
   narrowest measured one are unknown, and count as infinite. A budget that needs them is met from
   the narrowest known widths on by one common factor on all groups (`fitting.fit`).
6. What the bisection leaves under the budget is used up: each group may rise by one allowed width,
   the one whose drop falls most by that first, and then as far as the budget admits.
7. The drops of single cuts are not those of the whole plan, which nothing here measures before the
   final trial. So the best-scoring trial within the budget wins, single cuts included, and of
   equals the final one. Where the original is within the budget, the final trial is the original
   and wins, since a single cut could only lead it by noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.space import Plan
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import fit, narrowed, widen
from search.strategies.ledger import Ledger
from search.strategy_specs import SensitivitySpec

Curve = NDArray[np.float64]
"""`(widths,)` drops of one group, in the order of its allowed widths: never rising, 0 at last."""


@dataclass(frozen=True, slots=True)
class SingleCut:
    """One group at one width, all others whole; `level` is the keep ratio that was aimed at."""

    group: int
    level: float
    width: int


def single_cuts(choices: Sequence[Sequence[int]], levels: int) -> list[SingleCut]:
    """What is measured: the keep ratios `levels / (levels + 1)` down to `1 / (levels + 1)`.

    Args:
        choices: allowed widths per group, ascending; the last one is the full width.
    """
    found = []
    for group, options in enumerate(choices):
        full, parts = options[-1], levels + 1
        seen = {full}
        for kept in range(levels, 0, -1):
            # In whole numbers, so that ties are ties.
            width = min(options, key=lambda w: (abs(w * parts - kept * full), -w))
            if width not in seen:
                seen.add(width)
                found.append(SingleCut(group, kept / parts, width))
    return found


def curve(options: Sequence[int], scores: Mapping[int, float | None], baseline: float) -> Curve:
    """The drop at each allowed width of a group.

    Args:
        options: allowed widths, ascending; the last one is the full width.
        scores: of the measured widths below the full one; `None` where the trial failed.
        baseline: score of the original.
    Returns:
        `(len(options),)` drops, infinite where nothing is known.
    """
    from scipy.optimize import isotonic_regression  # slow, and the API imports this module

    known = {options[-1]: 0.0}
    for width in sorted(scores, reverse=True):
        score = scores[width]
        if score is None:
            break
        known[width] = baseline - score
    widths, drops = np.array(list(known)), np.array(list(known.values()))
    drops[1:] = isotonic_regression(drops[1:]).x if len(drops) > 1 else 0.0
    drops = np.maximum(drops, 0.0)
    found: Curve = np.interp(options, widths[::-1], drops[::-1], left=np.inf)
    return found


def tolerate(problem: Problem, curves: Sequence[Curve]) -> tuple[Plan, float]:
    """The smallest tolerated drop that the budget admits, see the module's deviations 4 and 5.

    Args:
        curves: one for each group.
    Returns:
        the plan, and the largest drop in it; infinite if the known widths do not suffice.
    """
    steps = sorted(
        (float(drops[index]), 1 - options[index] / options[-1], group)
        for group, (options, drops) in enumerate(zip(problem.choices, curves, strict=True))
        for index in range(len(options) - 1)
        if np.isfinite(drops[index])
    )
    keys = [step[:2] for step in steps]
    order = np.array([group for _, _, group in steps], dtype=np.int64)
    counts = [0] + [i for i in range(1, len(keys) + 1) if i == len(keys) or keys[i] != keys[i - 1]]

    def after(count: int) -> Plan:
        taken = np.bincount(order[:count], minlength=len(problem.choices))
        return tuple(
            options[-1 - step] for options, step in zip(problem.choices, taken, strict=True)
        )

    low, high = 0, len(counts)
    while low < high:
        middle = (low + high) // 2
        if problem.budget.admits(problem.cost.of(after(counts[middle]))):
            high = middle
        else:
            low = middle + 1
    if low < len(counts):
        return after(counts[low]), keys[counts[low] - 1][0] if counts[low] else 0.0
    rest = narrowed(problem.choices, after(len(keys)))
    return fit(problem.cost, problem.budget, rest, [1.0] * len(rest)), float("inf")


def use_up(problem: Problem, curves: Sequence[Curve], plan: Plan) -> Plan:
    """The plan with what it leaves under the budget given to the steepest groups first."""

    def steepness(group: int) -> float:
        """How much the drop falls with the next allowed width."""
        at = problem.choices[group].index(plan[group])
        here, above = (float(drop) for drop in curves[group][at : at + 2])
        return here - above if np.isfinite(above) else 0.0

    open_ = [g for g, options in enumerate(problem.choices) if plan[g] < options[-1]]
    order = sorted(open_, key=lambda group: (-steepness(group), group))
    once = widen(problem.cost, problem.budget, problem.choices, plan, order, steps=1)
    return widen(problem.cost, problem.budget, problem.choices, once, order)


class Sensitivity:
    """Measures every group alone, then proposes the plan that follows from the curves."""

    def __init__(self, config: SensitivitySpec, problem: Problem) -> None:
        self._problem = problem
        self._ledger = Ledger(config.name)
        self._cuts = single_cuts(problem.choices, config.levels)
        plans = np.array([*map(self._plan, range(self._final)), problem.full], dtype=np.int64)
        costs = problem.cost.many(plans, tuple(problem.budget.limits))
        admitted = problem.budget.admits_many(costs).tolist()
        self._admitted = frozenset(n for n in range(self._final) if admitted[n])
        self._whole_is_admitted = admitted[-1]
        self._scores: dict[int, float | None] = {}  # of all trials that were told

    @property
    def _final(self) -> int:
        """Number of the final trial."""
        return len(self._cuts)

    @property
    def done(self) -> bool:
        return len(self._scores) == self._final + 1

    @property
    def fraction(self) -> float:
        return len(self._scores) / (self._final + 1)

    @property
    def best(self) -> int | None:
        scores = {n: score for n, score in self._scores.items() if score is not None}
        if self._final in scores and self._whole_is_admitted:
            return self._final
        able = scores.keys() & (self._admitted | {self._final})
        return max(able, key=lambda n: (scores[n], n == self._final, -n), default=None)

    @property
    def needed(self) -> frozenset[int]:
        return frozenset()  # untuned: the plan is enough to make it again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        proposals = []
        for _ in range(n):
            number = self._ledger.next_number
            if number < self._final:
                cut = self._cuts[number]
                tags = {"group": cut.group, "level": round(cut.level, 4)}
                proposals.append(self._ledger.issue(self._plan(number), tags=tags))
            elif number == self._final == len(self._scores):
                proposals.append(self._propose_final())
            else:
                break
        return proposals

    def tell(self, outcome: Outcome, /) -> None:
        self._scores[outcome.number] = self._ledger.settle(outcome)

    def _plan(self, number: int) -> Plan:
        """Of a single cut."""
        cut, full = self._cuts[number], self._problem.full
        return (*full[: cut.group], cut.width, *full[cut.group + 1 :])

    def _propose_final(self) -> Proposal:
        measured: list[dict[int, float | None]] = [{} for _ in self._problem.choices]
        for number, cut in enumerate(self._cuts):
            measured[cut.group][cut.width] = self._scores[number]
        curves = [
            curve(options, scores, self._problem.baseline)
            for options, scores in zip(self._problem.choices, measured, strict=True)
        ]
        plan, drop = tolerate(self._problem, curves)
        tolerated = round(drop, 6) if np.isfinite(drop) else "unknown"
        return self._ledger.issue(
            use_up(self._problem, curves, plan), tags={"tolerated": tolerated}
        )

    def state_dict(self) -> dict[str, Any]:
        scores = [[number, score] for number, score in self._scores.items()]
        return {"ledger": self._ledger.state_dict(), "scores": scores}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._scores = dict(state["scores"])
