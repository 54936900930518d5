"""NetAdapt's own claims: the schedule, the rules, what an iteration offers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from search.cost import Budget
from search.space import Plan, widths
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.netadapt import NetAdapt, schedule
from search.strategy_specs import NetAdaptSpec
from tests.conformance.problems import Chain, History, Linear, Score, Toy, logarithmic, play


def problem(cost: Chain | Linear, limits: dict[str, int], *, multiple: int = 1) -> Problem:
    choices = tuple(widths(count, multiple=multiple) for count in cost.full)
    return Problem(cost, Budget(limits), choices, 0, 1.0)


# The first and the last group cost 100 MACs a channel, the one in the middle nothing.
FLAT = Chain((20, 20, 20), (1, 1), (100, 0, 0, 100))
CHAIN = Chain((20, 30, 20), (3, 10), (16, 16, 4, 4))


def iterations(history: History) -> list[list[Proposal]]:
    return [
        list(proposals)
        for _, proposals in itertools.groupby(history.proposals, lambda p: p.tags["iteration"])
    ]


def test_schedule_that_goes_all_the_way_is_left_alone() -> None:
    assert schedule(0.05, 1.0, 0.5) == (0.1, 1.0)
    assert schedule(0.05, 0.98, 0.5) == (0.1, 0.98)


@given(first=draw.floats(1e-4, 1), decay=draw.floats(0.1, 0.999), way=draw.floats(0.01, 1))
@settings(derandomize=True, deadline=None)
def test_schedule_reaches_the_budget_with_steps_of_at_least_a_tenth(
    first: float, decay: float, way: float
) -> None:
    step, same = schedule(first, decay, way)
    assert same == decay
    assert step * way >= first * (1 - 1e-9)
    walked, current = 0.0, step
    while current >= 0.0999 * step:
        walked += current
        current *= decay
    assert walked >= 1 - 1e-9
    if step * way > first * (1 + 1e-9):  # stretched: by no more than it takes
        assert walked == pytest.approx(1, rel=1e-2) or decay < 0.9


def test_reference_schedule_of_2_5_and_0_96_percent_cannot_remove_80_percent() -> None:
    """Its steps add up to 62.5 %; the search still ends within the budget asked for."""
    assert math.isclose(sum(0.025 * 0.96**i for i in range(2000)), 0.625, rel_tol=1e-6)
    full = CHAIN.of(CHAIN.full)["macs"]
    toy = Toy(problem(CHAIN, {"macs": full // 5}), logarithmic([1, 1, 1]))
    history = play(NetAdaptSpec(first_step=0.025, decay=0.96), toy)
    assert history.best_plan is not None
    assert CHAIN.of(history.best_plan)["macs"] <= full // 5
    assert len(iterations(history)) <= 57  # the steps of at least a tenth


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize(("share", "decay"), [(0.5, 1.0), (0.3, 0.9)])
def test_each_iteration_offers_the_widest_width_of_each_group(
    multiple: int, share: float, decay: float
) -> None:
    """Algorithm 1 by hand, over every allowed width."""
    full = CHAIN.of(CHAIN.full)["macs"]
    budget = int(share * full)
    toy = Toy(problem(CHAIN, {"macs": budget}, multiple=multiple), logarithmic([1, 2, 3]))
    history = play(NetAdaptSpec(first_step=0.1, decay=decay), toy)
    first = schedule(0.1, decay, (full - budget) / full)[0] * (full - budget)
    plan: Plan = CHAIN.full
    for i, proposals in enumerate(iterations(history), start=1):
        target = max(budget, CHAIN.of(plan)["macs"] - first * decay ** (i - 1))
        offered = {}
        for group, options in enumerate(toy.problem.choices):
            able = [
                (*plan[:group], width, *plan[group + 1 :])
                for width in options
                if CHAIN.of((*plan[:group], width, *plan[group + 1 :]))["macs"] <= target + 1e-6
            ]
            if able:
                offered[group] = max(able)
        assert {p.tags["group"]: p.plan for p in proposals} == offered
        winner = max(proposals, key=lambda p: (toy.score(p.plan), -p.number))
        plan = winner.plan
    assert plan == history.best_plan
    assert CHAIN.of(plan)["macs"] <= budget


def test_each_iteration_starts_from_the_winner_of_the_one_before() -> None:
    full = CHAIN.of(CHAIN.full)["macs"]
    toy = Toy(problem(CHAIN, {"macs": full // 2}), logarithmic([1, 2, 3]))
    strategy = NetAdapt(NetAdaptSpec(first_step=0.1, tuning_steps=7), toy.problem)
    history = play(NetAdaptSpec(first_step=0.1, tuning_steps=7), toy)
    winners: list[int] = []
    for proposals in iterations(history):
        assert {p.parent for p in proposals} == {winners[-1] if winners else None}
        assert {p.tuning_steps for p in proposals} == {7}
        asked = [replace(p, floor=None) for p in strategy.ask(100)]  # all before any score
        assert asked == [replace(p, floor=None) for p in proposals]
        for p in reversed(proposals):
            assert set(winners) <= strategy.needed
            strategy.tell(history.outcomes[p.number])
        winners.append(max(proposals, key=lambda p: (toy.score(p.plan), -p.number)).number)
        assert strategy.family == winners
        assert strategy.needed == set(winners)
    assert history.best == winners[-1]
    assert len(winners) > 3


def one_round(spec: NetAdaptSpec, problem_: Problem, scores: list[float | None]) -> NetAdapt:
    strategy = NetAdapt(spec, problem_)
    proposals = strategy.ask(10)
    for proposal, score in reversed(list(zip(proposals, scores, strict=True))):
        strategy.tell(Outcome(proposal.number, proposal.plan, score))
    return strategy


def test_paper_takes_the_highest_score_and_the_reference_code_the_least_drop_per_resource() -> None:
    # A step of 900 MACs: groups of 100, 250 and 350 a channel lose 900, 1000 and 1050.
    cost = Linear((20, 20, 20), (100, 250, 350))
    toy = problem(cost, {"macs": 5000})
    paper = NetAdaptSpec(first_step=900 / 14000, decay=1, selection="accuracy")
    reference = NetAdaptSpec(first_step=900 / 14000, decay=1, selection="ratio")
    assert [p.plan for p in NetAdapt(paper, toy).ask(3)] == [
        (11, 20, 20),
        (20, 16, 20),
        (20, 20, 17),
    ]
    scores: list[float | None] = [0.90, 0.89, 0.885]  # drops 0.10, 0.11, 0.115 from 1.0
    assert one_round(paper, toy, scores).family == [0]
    assert one_round(reference, toy, scores).family == [2]  # 0.115/1050 < 0.11/1000 < 0.10/900
    raised = replace(toy, baseline=1.5)  # drops 0.60, 0.61, 0.615: now the last by far
    assert one_round(reference, raised, [0.90, 0.80, 0.70]).family == [0]


def test_ties_go_to_the_first_group_and_failures_to_nobody() -> None:
    toy = problem(FLAT, {"macs": 2000})
    spec = NetAdaptSpec(first_step=0.1)
    assert one_round(spec, toy, [0.5, 0.5]).family == [0]
    assert one_round(spec, toy, [None, 0.1]).family == [1]
    over = one_round(spec, toy, [None, None])
    assert over.done
    assert over.best is None


def test_group_that_cannot_reach_the_target_alone_sits_out() -> None:
    toy = problem(FLAT, {"macs": 2000})  # the middle group costs nothing
    groups = [p.tags["group"] for p in NetAdapt(NetAdaptSpec(first_step=0.1), toy).ask(9)]
    assert groups == [0, 2]


def test_step_is_halved_until_one_group_can_reach_it() -> None:
    toy = problem(FLAT, {"macs": 400})
    # A step of 3600 of 4000: alone a group can lose 1900 at most, and 1800 is half.
    proposals = NetAdapt(NetAdaptSpec(first_step=0.9), toy).ask(9)
    assert [p.plan for p in proposals] == [(2, 20, 20), (20, 20, 2)]


def test_all_groups_are_narrowed_alike_where_none_alone_lowers_the_cost() -> None:
    """Two equal peaks of activation: cutting one leaves the other."""
    cost = Chain((16, 16, 16, 16), (4, 4), (1, 8, 1, 8, 1))
    full = cost.of(cost.full)["peak_activation_bytes"]
    toy = Toy(problem(cost, {"peak_activation_bytes": full // 2}), logarithmic([1, 1, 1, 1]))
    history = play(NetAdaptSpec(first_step=0.1, decay=1), toy, slots=3)
    assert [p.tags["group"] for p in history.proposals] == [-1] * 4
    assert history.best_plan is not None
    assert cost.of(history.best_plan)["peak_activation_bytes"] <= full // 2
    for group in range(4):  # nothing was cut in vain
        wider = [*history.best_plan]
        wider[group] += 1
        assert cost.of(tuple(wider))["peak_activation_bytes"] > full // 2


def test_original_within_the_budget_is_the_only_trial() -> None:
    toy = Toy(problem(FLAT, {"macs": 4000}), lambda _: 1.0)
    history = play(NetAdaptSpec(), toy)
    assert [p.plan for p in history.proposals] == [(20, 20, 20)]
    assert history.best == 0


def test_several_limits_end_within_all_of_them() -> None:
    full = CHAIN.of(CHAIN.full)
    limits = {
        "macs": full["macs"] // 2,
        "params": full["params"] // 3,
        "peak_activation_bytes": 10**9,
    }
    history = play(NetAdaptSpec(), Toy(problem(CHAIN, limits), logarithmic([1, 1, 1])))
    assert history.best_plan is not None
    cost = CHAIN.of(history.best_plan)
    assert all(cost[name] <= limit for name, limit in limits.items())
    last = iterations(history)[-1]
    for proposal in last:  # each the widest that is within all limits
        group = int(proposal.tags["group"])
        wider = [*proposal.plan]
        wider[group] += 1
        above = CHAIN.of(tuple(wider))
        assert any(above[name] > limit for name, limit in limits.items())


def test_last_target_is_the_budget_itself() -> None:
    cost = Linear((2000, 2000), (1, 1))
    history = play(NetAdaptSpec(first_step=0.3), Toy(problem(cost, {"macs": 2999}), sum))
    assert [p.plan for p in history.proposals] == [(999, 2000), (2000, 999)]


def by_brute_force(problem_: Problem, score: Score) -> float:
    plans = np.array(list(itertools.product(*problem_.choices)))
    admitted = problem_.budget.admits_many(problem_.cost.many(plans))
    return max(score(tuple(plan)) or -math.inf for plan in plans[admitted].tolist())


def test_small_steps_find_the_optimum_where_greed_does() -> None:
    """A separable cost and a concave worth: taking the cheapest channel each time is optimal."""

    cost = Linear((12, 12, 12), (1, 1, 1))
    score = logarithmic([1.0, 2.5, 0.3])
    toy = Toy(problem(cost, {"macs": 18}), score)
    history = play(NetAdaptSpec(first_step=1 / 36, decay=1), toy)
    assert history.best_plan is not None
    assert score(history.best_plan) == pytest.approx(by_brute_force(toy.problem, score))
