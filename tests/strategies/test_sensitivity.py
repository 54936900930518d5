"""Sensitivity: curves from scores, and the tolerated drop against every tolerance there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from search.cost import Budget
from search.space import Plan, widths
from search.strategies.base import Problem
from search.strategies.sensitivity import Curve, curve, single_cuts, tolerate, use_up
from search.strategy_specs import SensitivitySpec
from tests.conformance.problems import Chain, Linear, Toy, play

property_test = settings(deadline=None, max_examples=60, derandomize=True)
ALL_WIDTHS = SensitivitySpec(levels=99)  # every width of a group of up to 50 channels


def chain(full: Plan) -> Chain:
    return Chain(full, (3, 10), (64, 16, 16, 4)[: len(full) + 1])


def problem_of(full: Plan, share: float, names: Sequence[str] = ("macs",)) -> Problem:
    cost = chain(full)
    least, most = cost.of((1,) * len(full)), cost.of(full)
    limits = {name: least[name] + int(share * (most[name] - least[name])) for name in names}
    return Problem(cost, Budget(limits), tuple(map(widths, full)), 0, 0.0)


def admits(problem: Problem, plan: Plan) -> bool:
    return problem.budget.admits(problem.cost.of(plan))


def additive(losses: Sequence[Callable[[float], float]]) -> Callable[[Plan, Plan], float]:
    """A score from which each group takes its own loss, a function of the share removed."""
    return lambda plan, full: (
        -sum(loss(1 - width / count) for loss, width, count in zip(losses, plan, full, strict=True))
    )


# --- what is measured ---------------------------------------------------------------------------


def test_levels_are_shares_of_each_group() -> None:
    cuts = single_cuts([widths(20), widths(10)], 9)
    assert [(cut.group, cut.width) for cut in cuts] == [
        *((0, width) for width in range(18, 0, -2)),
        *((1, width) for width in range(9, 0, -1)),
    ]
    assert [cut.level for cut in cuts[:9]] == pytest.approx(np.arange(0.9, 0.05, -0.1))


def test_levels_without_a_width_of_their_own_are_left_out() -> None:
    assert [cut.width for cut in single_cuts([(8, 16)], 9)] == [8]
    assert [cut.width for cut in single_cuts([(1, 2, 3, 4)], 9)] == [3, 2, 1]
    assert [cut.width for cut in single_cuts([(2, 4, 8)], 1)] == [4]
    assert [cut.width for cut in single_cuts([(3, 5, 8)], 1)] == [5], "of two the wider"
    assert not single_cuts([(5,), (1,)], 9)
    assert not single_cuts([], 9)


# --- curves -------------------------------------------------------------------------------------


def test_a_curve_goes_through_what_was_measured() -> None:
    drops = curve(widths(8), {6: 0.8, 4: 0.5, 1: 0.2}, baseline=0.9)
    expected = [0.7, 0.6, 0.5, 0.4, 0.25, 0.1, 0.05, 0.0]  # widths 1 ... 8
    assert drops == pytest.approx(expected)


@property_test
@given(
    scores=draw.dictionaries(
        draw.integers(1, 19), draw.none() | draw.floats(-5, 5, width=32), max_size=12
    ),
    baseline=draw.floats(-5, 5, width=32),
)
def test_a_curve_never_falls_as_the_group_narrows(
    scores: dict[int, float | None], baseline: float
) -> None:
    drops = curve(widths(20), scores, baseline)
    assert drops[-1] == 0
    assert not np.isnan(drops).any()
    finite = drops[np.isfinite(drops)]
    assert (np.diff(finite) <= 1e-12).all()
    failed = max((width for width, score in scores.items() if score is None), default=0)
    known = [width for width in scores if width > failed]
    lowest = min(known, default=20)
    assert np.isinf(drops[: lowest - 1]).all()
    assert np.isfinite(drops[lowest - 1 :]).all()


def test_noise_is_averaged_rather_than_carried_down() -> None:
    """One unlucky score must not make every narrower width as bad."""
    drops = curve((1, 2, 3, 4), {3: 0.4, 2: 0.8, 1: 0.3}, baseline=0.9)
    assert drops == pytest.approx([0.6, 0.3, 0.3, 0.0])
    better = curve((1, 2, 3), {2: 0.95, 1: 0.5}, baseline=0.9)
    assert better == pytest.approx([0.4, 0.0, 0.0]), "no drop is below the original's"


# --- the tolerated drop -------------------------------------------------------------------------


def by_brute_force(problem: Problem, curves: Sequence[Curve]) -> tuple[Plan, float]:
    """Try every drop on any curve as the tolerance, the smallest first."""
    for tolerance in sorted({float(drop) for drops in curves for drop in drops}):
        plan = tuple(
            min(width for width, drop in zip(options, drops, strict=True) if drop <= tolerance)
            for options, drops in zip(problem.choices, curves, strict=True)
        )
        if admits(problem, plan):
            return plan, tolerance
    raise AssertionError("not even the narrowest")


def power_law(scale: float, power: float) -> Callable[[float], float]:
    return lambda share: float(scale * share**power)


@draw.composite
def curved(pick: draw.DrawFn) -> tuple[Problem, list[Callable[[float], float]]]:
    """One to three groups, each with a loss that grows with the share removed."""
    full = tuple(pick(draw.lists(draw.integers(2, 24), min_size=1, max_size=3)))
    names = pick(draw.sets(draw.sampled_from(["macs", "params"]), min_size=1))
    problem = problem_of(full, pick(draw.floats(0, 1)), sorted(names))
    losses: list[Callable[[float], float]] = []
    for _ in full:
        scale, power = pick(draw.floats(0.01, 5)), pick(draw.floats(0.5, 4))
        losses.append(power_law(scale, power))
    return problem, losses


@property_test
@given(case=curved())
def test_known_additive_losses_give_the_equal_drop_allocation(
    case: tuple[Problem, list[Callable[[float], float]]],
) -> None:
    problem, losses = case
    score, full = additive(losses), problem.full
    history = play(ALL_WIDTHS, Toy(problem, lambda plan: score(plan, full)), slots=4)
    exact = [
        np.array([loss(1 - width / options[-1]) for width in options])
        for loss, options in zip(losses, problem.choices, strict=True)
    ]
    measured = [
        curve(options, {w: score((*full[:g], w, *full[g + 1 :]), full) for w in options[:-1]}, 0.0)
        for g, options in enumerate(problem.choices)
    ]
    for ours, theirs in zip(measured, exact, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-12)
    expected, tolerance = by_brute_force(problem, exact)
    found, drop = tolerate(problem, measured)
    assert drop == pytest.approx(tolerance, abs=1e-12)
    assert found == expected
    final = history.proposals[-1]
    assert all(ours >= theirs for ours, theirs in zip(final.plan, expected, strict=True))
    assert final.tags["tolerated"] == pytest.approx(tolerance, abs=1e-6)
    for group, options in enumerate(problem.choices):  # nothing is left under the budget
        for wider in options[options.index(final.plan[group]) + 1 :]:
            assert not admits(problem, (*final.plan[:group], wider, *final.plan[group + 1 :]))


@property_test
@given(data=draw.data(), shares=draw.lists(draw.floats(0, 1), min_size=2, max_size=4))
def test_more_budget_never_narrows_a_group(data: draw.DataObject, shares: list[float]) -> None:
    full = tuple(data.draw(draw.lists(draw.integers(1, 16), min_size=1, max_size=3)))
    coarse = draw.sampled_from([0.01, 0.0, -0.01, -0.02, -0.5, None])  # ties, noise, failures
    kinds = draw.sampled_from([coarse, draw.just(0.0), draw.floats(-1, 0)])
    scores: list[dict[int, float | None]] = []
    for options in map(widths, full):
        kind: draw.SearchStrategy[float | None] = data.draw(kinds)
        scores.append({cut.width: data.draw(kind) for cut in single_cuts([options], 9)})
    curves = [curve(o, s, 0.0) for o, s in zip(map(widths, full), scores, strict=True)]
    before: Plan = (0,) * len(full)
    least = math.inf
    for share in sorted(shares):
        problem = problem_of(full, share)
        plan, drop = tolerate(problem, curves)
        assert admits(problem, plan)
        assert admits(problem, use_up(problem, curves, plan))
        assert all(a <= b for a, b in zip(before, plan, strict=True))
        assert drop <= least
        before, least = plan, drop
    whole = problem_of(full, 1.0)
    assert tolerate(whole, curves) == (full, 0.0)


def test_a_flat_group_is_cut_no_further_than_needed() -> None:
    """At a drop of 0 the shares decide, and the steep group stays whole."""
    problem = Problem(
        Linear((10, 20, 10), (1, 1, 1)), Budget({"macs": 25}), tuple(map(widths, (10, 20, 10))),
        0, 0.0,
    )  # fmt: skip
    flat, steep = np.zeros(10), np.linspace(0.9, 0.0, 10)
    plan, drop = tolerate(problem, [flat, np.zeros(20), steep])
    assert (plan, drop) == ((5, 10, 10), 0.0)
    all_flat = [flat, np.zeros(20), flat]
    assert tolerate(problem, all_flat)[0] == (6, 12, 6)
    assert use_up(problem, all_flat, (6, 12, 6)) == (7, 12, 6)


def test_what_is_left_goes_to_the_steepest_group() -> None:
    problem = Problem(Linear((4, 4), (3, 3)), Budget({"macs": 15}), (widths(4), widths(4)), 0, 0.0)
    curves = [np.array([0.3, 0.2, 0.1, 0.0]), np.array([0.6, 0.2, 0.1, 0.0])]
    assert use_up(problem, curves, (1, 1)) == (2, 3)
    assert use_up(problem, curves[::-1], (1, 1)) == (3, 2)


def test_a_budget_below_the_known_widths_is_met_by_one_factor() -> None:
    problem = Problem(
        Linear((20, 20), (1, 1)), Budget({"macs": 7}), (widths(20), widths(20)), 0, 0.0
    )
    known = [curve(widths(20), {10: -0.1}, 0.0), curve(widths(20), {4: -0.2}, 0.0)]
    assert tolerate(problem, known) == ((5, 2), math.inf), "half of what is known, 10 and 4"
    failed = [curve(widths(20), {10: None}, 0.0)] * 2
    assert tolerate(problem, failed) == ((3, 3), math.inf)


# --- the search ---------------------------------------------------------------------------------


def noisy(full: Plan, *, gain: float) -> Toy:
    """Single cuts score a little better than the original, as noise has it."""
    return Toy(problem_of(full, 1.0), lambda plan: 0.0 if plan == full else gain)


@pytest.mark.parametrize("gain", [-0.1, 0.0, 0.001])
def test_where_the_original_is_within_the_budget_it_wins(gain: float) -> None:
    toy = noisy((6, 8, 5), gain=gain)
    history = play(SensitivitySpec(), toy, slots=3)
    assert history.best_plan == toy.problem.full
    assert history.proposals[-1].tags == {"tolerated": 0.0}


def test_the_best_single_cut_wins_where_the_final_trial_fails() -> None:
    toy = noisy((6, 8, 5), gain=-0.1)
    score: dict[Plan, float | None] = {(6, 8, 5): None, (6, 4, 5): 0.5}
    broken = Toy(toy.problem, lambda plan: score.get(plan, -1.0))
    assert play(SensitivitySpec(), broken).best_plan == (6, 4, 5)


def test_a_single_cut_above_the_budget_never_leads() -> None:
    full = (16, 16, 16)
    problem = problem_of(full, 0.2)
    history = play(SensitivitySpec(), Toy(problem, lambda plan: float(sum(plan))))
    singles = [proposal.plan for proposal in history.proposals[:-1]]
    assert any(not admits(problem, plan) for plan in singles)
    assert history.best == len(singles)


def test_the_final_trial_waits_for_all_curves() -> None:
    toy = noisy((4, 4), gain=-0.1)
    for slots, restart in itertools.product((1, 5, 99), (False, True)):
        history = play(SensitivitySpec(), toy, slots=slots, restart=itertools.repeat(restart))
        tags = [dict(proposal.tags) for proposal in history.proposals]
        assert [tag.get("group") for tag in tags] == [0, 0, 0, 1, 1, 1, None]
        assert [tag["level"] for tag in tags[:3]] == [0.8, 0.6, 0.3]


def test_nothing_to_choose_is_no_failure() -> None:
    for choices in ((), ((3,), (5,))):
        full = tuple(options[-1] for options in choices)
        problem = replace(problem_of((3,), 1.0), cost=chain(full), choices=choices)
        assert play(SensitivitySpec(), Toy(problem, lambda _: 0.5)).best_plan == full
