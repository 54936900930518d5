"""Our own search: what it does with levels that are known, and the budgets of its points."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.cost import Budget
from search.space import widths
from search.strategies.base import Problem, Proposal
from search.strategies.weighted import Weighted, Weights
from search.strategy_specs import AllocateSpec
from tests.conformance.problems import Chain, History, Linear, Toy, logarithmic, losses_of, play

SPEC = AllocateSpec(trials=6, finalists=2, points=3)
FULL = (24, 32, 16, 32)


def toy(**limits: float) -> Toy:
    """Four groups of different worth, under limits that are shares of the original's cost."""
    cost = Chain(FULL, (3, 10), (64, 64, 16, 16, 4))
    full = cost.of(FULL)
    budget = Budget({name: int(share * full[name]) for name, share in limits.items()})
    score = logarithmic([0.2, 2.0, 1.0, 0.5])
    return Toy(Problem(cost, budget, tuple(map(widths, FULL)), 3, score(FULL)), score)


def known(problem: Toy) -> Toy:
    """The same, its levels measured by an earlier job."""
    levels = []
    for group in range(len(FULL)):
        losses = losses_of(problem, Proposal(group, FULL, levels_of=group), 0.0)
        assert losses is not None
        levels.append(losses)
    return replace(problem, problem=replace(problem.problem, levels=tuple(levels)))


def plans(history: History, **tags: Any) -> list[Any]:
    """Of the proposals that have such tags, by rising number."""
    return [p.plan for p in history.proposals if tags.keys() <= p.tags.keys()]


def test_known_levels_lead_to_the_same_plans() -> None:
    """Only the numbers differ: nothing is measured."""
    first, second = play(SPEC, toy(macs=0.5)), play(SPEC, known(toy(macs=0.5)))
    assert [p.levels_of for p in first.proposals[: len(FULL)]] == list(range(len(FULL)))
    assert not any(p.levels_of is not None for p in second.proposals)
    rest = first.proposals[len(FULL) :]
    assert [(p.plan, p.solve, p.tags) for p in rest] == [
        (p.plan, p.solve, p.tags) for p in second.proposals
    ]
    assert first.best_plan == second.best_plan


@pytest.mark.parametrize("seed", [0, 1])
def test_all_drafts_are_made_where_widths_are_coarse(seed: int) -> None:
    """The plans near the best are soon all known, and the search looks further away."""
    full = (16, 16, 16, 32, 32, 32, 64, 64, 64)
    cost = Chain(full, (3, 10), (256,) * 3 + (64,) * 3 + (16,) * 3 + (1,))
    choices = tuple(tuple(range(w // 4, w + 1, w // 4)) for w in full)
    score = logarithmic([1.0 + (i * 7 % 5) / 4 for i in range(len(full))])
    budget = Budget({"macs": cost.of(full)["macs"] // 2})
    problem = Toy(Problem(cost, budget, choices, seed, score(full)), score)
    drafts = plans(play(AllocateSpec(trials=24), problem), power=0)
    assert len(set(drafts)) == len(drafts) == 24


def test_drafts_and_finalists_are_within_the_budget() -> None:
    problem = toy(macs=0.4, params=0.5)
    history = play(SPEC, problem)
    drafts, finalists = plans(history, power=0), plans(history, final=0)
    assert 3 <= len(drafts) == len(set(drafts)) <= SPEC.trials  # fewer where no other is new
    assert len(set(finalists)) == SPEC.finalists
    assert set(finalists) <= set(drafts)
    for plan in (*drafts, *finalists):
        assert problem.problem.budget.admits(problem.problem.cost.of(plan))
    assert history.best_plan in finalists


@pytest.mark.parametrize("limits", [{"macs": 0.4}, {"macs": 0.4, "params": 0.7}])
def test_points_are_evenly_spaced_in_every_limited_cost(limits: dict[str, float]) -> None:
    problem = toy(**limits)
    points = plans(play(SPEC, problem), point=0)
    full = problem.problem.cost.of(FULL)
    assert len(points) == SPEC.points
    for step, plan in enumerate(points, 1):
        cost = problem.problem.cost.of(plan)
        shares = []
        for name, limit in problem.problem.budget.limits.items():
            allowed = limit + step / (SPEC.points + 1) * (full[name] - limit)
            assert cost[name] <= allowed
            shares.append(cost[name] / allowed)
        assert max(shares) > 0.95  # as much of it is used as widths allow
    assert all(a != b for a, b in itertools.pairwise(points))


def test_a_limit_above_the_original_leaves_nothing_to_point_at() -> None:
    history = play(SPEC, toy(macs=1.5))
    assert history.best_plan == FULL
    assert plans(history, point=0) == []


def test_a_group_that_could_not_be_measured_loses_as_the_others_do() -> None:
    """The search goes on without it."""
    problem = toy(macs=0.5)
    fails = (*FULL[:1], 6, *FULL[2:])  # the narrowest anchor of the second group
    broken = replace(problem, score=lambda plan: None if plan == fails else problem.score(plan))
    history = play(SPEC, broken)
    assert history.outcomes[1].losses is None
    assert history.best_plan is not None
    assert np.prod(history.best_plan) < np.prod(FULL)


def test_a_guess_does_not_depend_on_the_order_in_which_levels_came() -> None:
    """Means of floats differ in the last digit by the order of the sum, and so did plans."""
    full = (4,) * 5
    cost = Linear(full, (1,) * 5)
    problem = Problem(cost, Budget({"macs": 14}), tuple(map(widths, full)), 0, 0.0)
    random, allocation = np.random.default_rng(0), Weighted(problem)
    for _ in range(100):
        curves = np.round(np.sort(random.uniform(0, 3, (4, 3)))[:, ::-1], 1)
        found = set()
        for order in itertools.permutations(range(4)):
            losses = {group: (*curves[group].tolist(), 0.0) for group in order}
            found.add(allocation.plan({**losses, 4: None}, Weights(0, 0, 0), problem.budget))
        assert len(found) == 1
