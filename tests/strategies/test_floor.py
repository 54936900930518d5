"""The score to beat that goes with a proposal."""

from __future__ import annotations

import math

import pytest

from search.strategies.base import Outcome, Proposal, Strategy
from search.strategy_specs import AmcSpec, NetAdaptSpec, RandomSpec, RewardSpec, UniformSpec
from tests.conformance.problems import start
from tests.conformance.test_strategies import known


def one(strategy: Strategy) -> Proposal:
    (proposal,) = strategy.ask(1)
    return proposal


def tell(strategy: Strategy, proposal: Proposal, score: float | None) -> None:
    strategy.tell(Outcome(proposal.number, proposal.plan, score))


def test_independent_trials_race_against_the_leader() -> None:
    strategy = start(RandomSpec(trials=5), known().problem)
    first = one(strategy)
    second = one(strategy)
    assert (first.floor, second.floor) == (None, None)
    tell(strategy, second, None)
    third = one(strategy)
    assert third.floor is None
    tell(strategy, first, -2.0)
    tell(strategy, third, -3.0)
    assert one(strategy).floor == -2.0
    assert one(start(UniformSpec(), known().problem)).floor is None


def test_netadapt_races_within_an_iteration() -> None:
    strategy = start(NetAdaptSpec(first_step=0.1), known().problem)
    asked = [one(strategy)]
    tell(strategy, asked[0], 1.0)
    while asked[-1].tags["iteration"] == 1:
        asked.append(one(strategy))
        tell(strategy, asked[-1], 0.5)
    assert [proposal.floor for proposal in asked[1:-1]] == [1.0] * (len(asked) - 2)
    assert asked[-1].floor is None  # nothing of the second iteration is known


def test_a_ratio_of_drops_is_no_race_of_scores() -> None:
    strategy = start(NetAdaptSpec(first_step=0.1, selection="ratio"), known().problem)
    tell(strategy, one(strategy), 1.0)
    assert one(strategy).floor is None


def test_the_agent_races_against_the_best_reward() -> None:
    strategy = start(AmcSpec(trials=6, warmup=3, hidden=8), known().problem)
    first, second = strategy.ask(2)
    assert (first.floor, second.floor) == (None, None)
    tell(strategy, first, -2.0)
    tell(strategy, second, -3.0)
    third = one(strategy)
    assert third.floor == -2.0
    tell(strategy, third, -2.1)  # an estimate, which does not take the lead
    assert strategy.best == first.number


def test_a_reward_for_low_costs_asks_for_a_score_of_each_plan() -> None:
    """With exactly the floor as its score a plan gains as much as the leader."""
    problem = known().problem
    reward = RewardSpec(kind="weighted", weights={"macs": 0.5})
    strategy = start(AmcSpec(trials=6, warmup=3, hidden=8, reward=reward), problem)
    first = one(strategy)
    tell(strategy, first, -2.0)
    second = one(strategy)
    macs = [problem.cost.of(proposal.plan)["macs"] for proposal in (first, second)]
    assert macs[0] != macs[1]
    assert second.floor == pytest.approx(-2.0 + 0.5 * math.log(macs[1] / macs[0]))
    tell(strategy, second, (second.floor or 0.0) + 1e-6)
    assert strategy.best == second.number


def test_a_reward_for_accuracy_is_no_race_of_scores() -> None:
    reward = RewardSpec(kind="guaranteed")
    strategy = start(AmcSpec(trials=6, warmup=3, hidden=8, reward=reward), known().problem)
    tell(strategy, one(strategy), -2.0)
    assert one(strategy).floor is None
