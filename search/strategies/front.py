"""Which trials no other one beats in everything: the front of a search with several objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search.strategy_specs import Objective, OptunaSpec, StrategySpec

Direction = Literal["maximize", "minimize"]


def aims_of(strategy: StrategySpec) -> tuple[Objective, ...]:
    """What a search is for: the score alone unless it asks for more."""
    return strategy.aims() if isinstance(strategy, OptunaSpec) else ("score",)


def values_of(
    objectives: Sequence[Objective], score: float, cost: Mapping[str, int]
) -> tuple[float, ...]:
    """What a trial is worth: for each objective its score, or a cost."""
    return tuple(score if name == "score" else float(cost[name]) for name in objectives)


def directions(objectives: Sequence[Objective]) -> tuple[Direction, ...]:
    """A score is maximized, a cost minimized."""
    return tuple("maximize" if name == "score" else "minimize" for name in objectives)


def front(
    objectives: Sequence[Objective], values: Mapping[int, Sequence[float]]
) -> tuple[int, ...]:
    """The trials that no other is as good as in all objectives and better than in one.

    Args:
        values: by the trial's number, one for each objective.
    Returns:
        their numbers, ascending; of trials that are equal in everything, the last, which may be
        the one that was solved for.
    """
    numbers = sorted(values, reverse=True)
    if not numbers:
        return ()
    signs = [1.0 if way == "maximize" else -1.0 for way in directions(objectives)]
    points = np.array([values[number] for number in numbers]) * signs  # (trials, objectives)
    best, first = np.unique(points, axis=0, return_index=True)
    return tuple(sorted(numbers[first[row]] for row in np.flatnonzero(_undominated(best))))


def front_of(
    strategy: StrategySpec, scored: Iterable[tuple[int, float, Mapping[str, int]]]
) -> frozenset[int] | None:
    """The front of a search's trials; `None` if it has but one objective.

    Args:
        scored: number, score and cost of each trial that succeeded.
    """
    aims = aims_of(strategy)
    if len(aims) == 1:
        return None
    return frozenset(
        front(aims, {number: values_of(aims, score, cost) for number, score, cost in scored})
    )


def _undominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """`(n,)` for distinct points `(n, objectives)` of which more is better."""
    return np.array(
        [np.count_nonzero((points >= point).all(axis=1)) == 1 for point in points], np.bool_
    )
