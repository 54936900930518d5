"""Plans under limits, against every plan there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.cost import Budget
from search.space import widths
from search.strategies.base import Problem
from search.strategies.fitting import fit, uniform_plan, widen, widest
from search.strategies.random import random_plan
from tests.conformance.problems import Chain

FULL = (6, 8, 5)
COST = Chain(FULL, (3, 10), (16, 16, 4, 1))
CHOICES = tuple(widths(count) for count in FULL)


def budget(share: float, name: str = "macs") -> Budget:
    least, most = COST.of((1, 1, 1))[name], COST.of(FULL)[name]
    return Budget({name: least + int(share * (most - least))})


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.77, 1.0])
def test_fit_is_the_largest_common_ratio(share: float) -> None:
    limits = budget(share)
    ratios = sorted({width / count for count in FULL for width in range(1, count + 1)})
    plans = [tuple(max(1, int(ratio * count + 1e-9)) for count in FULL) for ratio in ratios]
    admitted = [plan for plan in plans if limits.admits(COST.of(plan))]
    assert fit(COST, limits, CHOICES, [1.0, 1.0, 1.0]) == max(admitted)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.77, 1.0])
def test_uniform_plan_is_at_most_one_width_above_the_common_ratio(share: float) -> None:
    limits = budget(share)
    common = fit(COST, limits, CHOICES, [1.0, 1.0, 1.0])
    plan = uniform_plan(COST, limits, CHOICES)
    assert limits.admits(COST.of(plan))
    assert all(0 <= wide - ratio <= 1 for wide, ratio in zip(plan, common, strict=True))
    for group in range(3):  # what was not widened could not be
        if plan[group] == common[group] < FULL[group]:
            wider = (*plan[:group], plan[group] + 1, *plan[group + 1 :])
            assert not limits.admits(COST.of(wider))


def test_fit_takes_allowed_widths_only() -> None:
    choices = tuple(widths(count, multiple=4, minimum=2) for count in FULL)
    assert choices == ((4, 6), (4, 8), (4, 5))
    assert fit(COST, budget(1.0), choices, [1.0, 1.0, 1.0]) == FULL
    assert fit(COST, budget(0.9), choices, [1.0, 1.0, 1.0]) == (4, 4, 4)


def test_fit_follows_the_ratios() -> None:
    cost = Chain((100, 100), (1, 1), (1, 0, 1))  # 2 layers: as many MACs as channels in all
    choices = (widths(100), widths(100))
    assert fit(cost, Budget({"macs": 80}), choices, [3.0, 1.0]) == (60, 20)


def test_widest_is_found_among_the_options() -> None:
    limits = budget(0.5)
    admitted = [w for w in range(1, 9) if limits.admits(COST.of((5, w, 4)))]
    assert 1 < max(admitted) < 8
    assert widest(COST, limits, (5, 8, 4), 1, range(1, 9)) == max(admitted)
    assert widest(COST, limits, (5, 8, 4), 1, range(max(admitted) + 1, 9)) is None
    assert widest(COST, limits, (5, 8, 4), 1, ()) is None


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_widen_leaves_no_group_that_could_be_wider(order: tuple[int, ...]) -> None:
    limits = budget(0.5)
    plan = widen(COST, limits, CHOICES, (2, 2, 2), order)
    assert limits.admits(COST.of(plan))
    assert all(wide >= 2 for wide in plan)
    for group in range(3):
        if plan[group] < FULL[group]:
            wider = (*plan[:group], plan[group] + 1, *plan[group + 1 :])
            assert not limits.admits(COST.of(wider))


def test_random_plans_are_just_under_the_budget_and_differ() -> None:
    limits = Budget({**budget(0.5).limits, **budget(0.6, "params").limits})
    problem = Problem(COST, limits, CHOICES, 3, 0.0)
    plans = [random_plan(problem, number) for number in range(40)]
    assert len(set(plans)) > 10
    assert plans == [random_plan(problem, number) for number in range(40)]
    other = Problem(COST, limits, CHOICES, 4, 0.0)
    assert plans != [random_plan(other, number) for number in range(40)]
    every = np.array(list(itertools.product(*CHOICES)))
    maximal = {tuple(plan) for plan in every.tolist() if is_maximal(tuple(plan), limits)}
    assert set(plans) <= maximal


def is_maximal(plan: tuple[int, ...], limits: Budget) -> bool:
    def wider(group: int) -> tuple[int, ...]:
        return (*plan[:group], plan[group] + 1, *plan[group + 1 :])

    return limits.admits(COST.of(plan)) and not any(
        limits.admits(COST.of(wider(group)))
        for group in range(len(plan))
        if plan[group] < FULL[group]
    )
