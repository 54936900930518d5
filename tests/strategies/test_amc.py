"""AMC: states, rewards, the walk and its bounds, and that learning pays."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from benchmarks.amc_toy import search, toy, water_filling
from espalier.format.lift import lift
from search.cost import Budget, CostModel, choices_of
from search.graph import space_of
from search.pruning import select
from search.space import SearchSpace, widths
from search.spec import BudgetSpec, EvaluationSpec, JobSpec
from search.strategies import create
from search.strategies.amc import Amc, lower_bounds, truncated_normal
from search.strategies.base import Outcome, Problem
from search.strategies.features import NETWORK, States, describe
from search.strategies.fitting import uniform_plan
from search.strategies.rewards import reward
from search.strategy_specs import AmcSpec, RandomSpec, RewardSpec
from tests.conformance.problems import Chain, Toy, play
from tests.evaluation.digits import digits, evaluator, job
from tests.networks import ZOO


def space(name: str) -> SearchSpace:
    network, example = ZOO[name]()
    return space_of(lift(network, (example,))[0])


def chain(limits: dict[str, int] | None = None, seed: int = 0) -> Problem:
    """Three layers of one multiply-accumulate a weight: 3 x a + a x b + b x 10."""
    cost = Chain((10, 20), (3, 10), (1, 1, 1))
    return Problem(cost, Budget(limits or {"macs": 200}), (widths(10), widths(20)), seed, 0.0)


def test_groups_are_described_by_their_layers() -> None:
    found = describe(space("vit_fused"))
    assert NETWORK == ("linear", "attention", "n", "c", "h", "w", "stride", "k")
    # patches of 4 x 4 from 3 colours, tied to what each layer's two residual sums add
    assert found[0].tolist() == [0, 0, 24, 3 + 2 * (24 + 48), 4, 4, 4, 4]
    assert found[1].tolist() == [1, 1, 72, 24, 17, 1, 1, 1]  # three heads: queries, keys, values
    assert found[2].tolist() == [1, 0, 48, 24, 17, 1, 1, 1]

    found = describe(space("vit_multihead"))
    assert found[1].tolist() == [1, 1, 72, 24, 17, 1, 1, 1]

    found = describe(space("mobilenet_v2"))
    assert found[0].tolist() == [0, 0, 4, 3 + 1, 16, 16, 2, 3]  # with its depthwise convolution
    found = describe(space("unet"))
    assert found[3].tolist() == [0, 0, 12, 16, 8, 8, 2, 2]  # transposed: inputs come first


@pytest.mark.parametrize("name", ["shufflenet_v1", "conv1d", "group_norm"])
def test_any_network_has_states(name: str) -> None:
    found = space(name)
    cost = CostModel(found)
    choices = tuple(widths(count) for count in found.full)
    limits = {name: value // 2 for name, value in cost.full.items()}
    problem = Problem(cost, Budget(limits), choices, 0, 0.0, found)
    states = States(problem, tuple(options[0] for options in choices))
    groups = np.arange(len(choices))
    table = states.of(np.tile(np.array(problem.full), (len(choices), 1)), groups)
    assert table.shape == (len(choices), states.count)
    assert np.isfinite(table).all()
    assert (table >= 0).all()
    assert (table <= 2).all()  # a cost that grows with the square of a width counts twice
    assert len(np.unique(table, axis=0)) == len(choices)


def test_costs_in_the_state_are_those_of_whole_plans() -> None:
    """By hand: the original costs 30 + 200 + 200 = 430, the lower bounds are 2 and 4."""
    states = States(chain(), (2, 4))
    flops, reduced, rest, before = states.of(np.array([[5, 4]]), np.array([0]))[0, -4:]
    assert flops == pytest.approx(230 / 430)  # what the first width is a factor of
    assert (reduced, before) == (0, 1)
    assert rest == pytest.approx((430 - (30 + 40 + 40)) / 430)
    flops, reduced, rest, before = states.of(np.array([[5, 4]]), np.array([1]))[0, -4:]
    assert flops == pytest.approx(400 / 430)
    assert reduced == pytest.approx((430 - (15 + 100 + 200)) / 430)
    assert (rest, before) == (0, 0.5)


def outcome(plan: tuple[int, ...], **metrics: float) -> Outcome:
    return Outcome(0, plan, 0.7, metrics, {"macs": 100, "params": 50})


def test_rewards() -> None:
    problem = chain()
    full = problem.cost.of(problem.full)
    labelled, unlabelled = outcome((5, 5), top1=0.9, agreement=0.8), outcome((5, 5), agreement=0.8)

    def of(spec: RewardSpec, result: Outcome) -> float:
        return reward(spec, problem, result, 0.7)

    assert of(RewardSpec(), labelled) == 0.7
    paper = RewardSpec(kind="guaranteed")
    assert of(paper, labelled) == pytest.approx(-0.1 * math.log(100))
    assert of(paper, unlabelled) == pytest.approx(-0.2 * math.log(100))
    assert of(paper, outcome((5, 5))) == pytest.approx(-0.3 * math.log(100))
    both = RewardSpec(kind="guaranteed", weights={"macs": 1, "params": 2})
    assert of(both, labelled) == pytest.approx(-0.1 * (math.log(100) + 2 * math.log(50)))
    perfect = outcome((5, 5), top1=1.0)
    cheaper = replace(perfect, cost={"macs": 50})
    assert of(paper, cheaper) > of(paper, perfect)
    mixed = RewardSpec(kind="weighted", weights={"macs": 0.5, "params": 0.25})
    wanted = 0.7 - 0.5 * math.log(100 / full["macs"]) - 0.25 * math.log(50 / full["params"])
    assert of(mixed, labelled) == pytest.approx(wanted)
    assert of(mixed, Outcome(0, problem.full, 0.7)) == pytest.approx(0.7)  # counted anew


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert AmcSpec().warmup_trials == 100
    assert AmcSpec(trials=40).warmup_trials == 10
    with pytest.raises(ValidationError, match="warmup is at most trials: 100 of 50"):
        AmcSpec(trials=50, warmup=100)
    with pytest.raises(ValidationError, match="one weight at least is above 0"):
        RewardSpec(kind="weighted", weights={"macs": 0})
    nested: Any = {"name": "amc", "reward": {"kind": "guaranteed", "weights": {"params": 1}}}
    job = JobSpec(network="n", dataset="d", budget=BudgetSpec(macs="50%"), strategy=nested)
    assert JobSpec.model_validate_json(job.model_dump_json()) == job


def test_exploration_is_a_truncated_normal() -> None:
    random = np.random.default_rng(0)
    draws = [truncated_normal(0.9, 0.3, 0.2, 1.0, random) for _ in range(2000)]
    wanted = stats.truncnorm((0.2 - 0.9) / 0.3, (1 - 0.9) / 0.3, loc=0.9, scale=0.3)
    assert stats.kstest(draws, wanted.cdf).pvalue > 0.01
    assert truncated_normal(0.1, 0.05, 0.2, 0.2, random) == 0.2


def test_bounds_give_way_to_the_budget() -> None:
    problem = chain()
    uniform = uniform_plan(problem.cost, problem.budget, problem.choices)
    assert lower_bounds(problem, 0.2, uniform) == (2, 4)
    tight = chain({"macs": 3 + 1 + 10 + 15})
    uniform = uniform_plan(tight.cost, tight.budget, tight.choices)
    found = lower_bounds(tight, 0.2, uniform)
    assert found < (2, 4)
    assert tight.budget.admits(tight.cost.of(found))


def test_what_is_remembered_is_what_was_executed() -> None:
    """The replay's actions are the proposals' own plans, which use the budget up."""
    problem = chain()
    agent = Amc(AmcSpec(trials=8, warmup=3, hidden=8), problem)
    for number in range(8):
        (proposal,) = agent.ask(1)
        assert proposal.number == number
        for group in range(2):
            wider = list(proposal.plan)
            wider[group] += 1
            fits = wider[group] <= problem.full[group] and problem.budget.admits(
                problem.cost.of(tuple(wider))
            )
            assert not fits
        agent.tell(Outcome(number, proposal.plan, float(sum(proposal.plan))))
        assert agent._plans[-1] == proposal.plan
    assert len(set(agent._plans)) > 5  # of the nine there are


def test_one_trial_where_there_is_one_plan() -> None:
    everything = chain({"macs": 1000})
    assert [p.plan for p in Amc(AmcSpec(), everything).ask(9)] == [(10, 20)]
    one_width = replace(chain(), choices=((10,), (20,)), budget=Budget({"macs": 430}))
    guaranteed = AmcSpec(reward=RewardSpec(kind="guaranteed"))
    assert [p.plan for p in Amc(guaranteed, one_width).ask(9)] == [(10, 20)]


def test_never_worse_than_uniform() -> None:
    problem, regret = toy(6, 3)
    plan = uniform_plan(problem.cost, problem.budget, problem.choices)
    assert search(AmcSpec(trials=1), problem, regret).min() <= regret(plan)


def test_finds_by_itself_how_much_can_go() -> None:
    """Any plan is allowed. Below 10 and 12 channels the error grows fast, above not at all."""
    cost = Chain((32, 32), (3, 10), (16, 16, 4))
    problem = Problem(cost, Budget({"macs": cost.of((32, 32))["macs"]}), (widths(32),) * 2, 0, 0.0)

    def score(plan: tuple[int, ...]) -> float:
        return 0.95 - 0.05 * max(10 - plan[0], 0) - 0.05 * max(12 - plan[1], 0)

    spec = AmcSpec(trials=80, warmup=30, hidden=32, reward=RewardSpec(kind="guaranteed"))
    found = play(spec, Toy(problem, score)).best_plan
    assert found is not None
    assert score(found) == 0.95
    assert cost.of(found)["macs"] < 0.5 * cost.of((32, 32))["macs"]


def test_the_network_reaches_the_agent() -> None:
    found = space("mobilenet_v1")
    cost = CostModel(found)
    choices = tuple(widths(count) for count in found.full)
    budget = Budget({"macs": cost.full["macs"] // 2})
    agent = create(AmcSpec(trials=3, warmup=1), cost, budget, choices, 0, baseline=1.0)
    assert isinstance(agent, Amc)
    described = len(NETWORK) + 1 + 1 + 3 + len(choices)  # with t, flops and the cost so far
    assert agent._states.count == described


def test_a_state_of_many_groups_and_trials_stays_small() -> None:
    groups = 32
    problem = chain()
    problem = replace(
        problem,
        cost=Chain((64,) * groups, (3, 10), (1,) * (groups + 1)),
        choices=(widths(64),) * groups,
        budget=Budget({"macs": 60_000}),
    )
    agent = Amc(AmcSpec(), problem)
    agent._plans, agent._rewards = [problem.full] * 400, [0.5] * 400
    assert len(json.dumps(agent.state_dict())) < 2_000_000


def test_the_known_optimum_is_one() -> None:
    """No plan of a small problem is better, and the widths use the budget up."""
    values, costs = np.array([3.0, 1.0, 0.2]), np.array([5.0, 2.0, 7.0])
    found = water_filling(values, costs, 200.0)
    assert found @ costs == pytest.approx(200)
    grid = np.stack(np.meshgrid(*[np.arange(1, 33)] * 3), -1).reshape(-1, 3)
    worth = np.log(grid) @ values
    assert values @ np.log(found) >= worth[grid @ costs <= 200].max()


def test_beats_random_search() -> None:
    """Paired seeds, equal numbers of trials, one-sided signed-rank test."""
    trials = 60
    pairs = []
    for seed in range(10):
        problem, regret = toy(8, seed)
        # The best plans keep less than the default of 0.2 of some groups.
        spec = AmcSpec(trials=trials, hidden=32, lower_bound=0.05)
        amc = search(spec, problem, regret)
        random = search(RandomSpec(trials=trials), problem, regret)
        pairs.append((amc.min(), random.min()))
    ours, theirs = np.array(pairs).T
    assert stats.wilcoxon(ours, theirs, alternative="less").pvalue < 0.05


def test_several_actors_learn_from_what_returned() -> None:
    problem, regret = toy(6, 0)
    spec = AmcSpec(trials=80, hidden=64, lower_bound=0.05)
    history = play(spec, Toy(problem, lambda plan: -regret(plan)), slots=8)
    regrets = [regret(proposal.plan) for proposal in history.proposals]
    assert len(regrets) == 80
    assert np.median(regrets[-20:]) < 0.75 * np.median(regrets[:20])


def test_beats_uniform_on_a_trained_network() -> None:
    """Digits at 40 % of the multiply-accumulates, by the loss on the hold-out."""
    spec = job(
        budget=BudgetSpec(macs="40%"),
        evaluation=EvaluationSpec(
            metric="cross_entropy", calibration=128, holdout=300, reconstruction="none"
        ),
        strategy=AmcSpec(trials=40, hidden=32),
    )
    what, judge = digits(), evaluator(spec)
    cost, choices = CostModel(what.space), choices_of(what.space, spec.rounding, spec.version)
    budget = Budget.resolve(spec.budget, cost.full)

    def score(plan: tuple[int, ...]) -> float | None:
        kept = select(what.network, what.space, plan, "l1", torch.Generator())
        return judge.evaluate(kept).score

    found = play(spec.strategy, Toy(Problem(cost, budget, choices, 0, 0.0, what.space), score))
    uniform = score(uniform_plan(cost, budget, choices))
    assert found.best is not None
    best = found.outcomes[found.best].score
    assert best is not None
    assert uniform is not None
    assert best > uniform + 0.05
