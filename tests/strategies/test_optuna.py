"""Search through Optuna: the samplers against the libraries themselves, projection and front."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import Any, Literal

import cmaes
import numpy as np
import optuna
import pytest
from pydantic import ValidationError
from scipy.stats import wilcoxon

from search.cost import Budget
from search.space import Plan, widths
from search.strategies import samplers
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import uniform_plan
from search.strategies.front import Direction, front
from search.strategies.optuna import OptunaSearch
from search.strategies.samplers import CmaEs, InStudy, Tried, rounded, seed_of
from search.strategy_specs import Objective, OptunaSpec
from tests.conformance.problems import Linear, Toy, logarithmic, play
from tests.conformance.test_strategies import known

LOWEST = (0.1, 0.25, 0.5)


def quality(values: tuple[float, ...]) -> float:
    return -sum((value - 0.6) ** 2 for value in values)


def chain(groups: int, share: float = 0.5) -> Toy:
    """Groups whose worth and cost have nothing to do with each other."""
    generator = np.random.default_rng(3)
    full = tuple(int(width) for width in generator.choice([16, 32, 64], groups))
    cost = Linear(full, tuple(int(weight) for weight in generator.integers(1, 9, groups)))
    limit = int(share * cost.of(full)["macs"])
    choices = tuple(widths(count) for count in full)
    score = logarithmic(generator.gamma(0.5, 2, groups).tolist())
    return Toy(Problem(cost, Budget({"macs": limit}), choices, 0, 0.0), score)


# --- the samplers against the libraries ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "random"])
def test_draws_what_optuna_draws(
    kind: Literal["tpe", "nsga2", "random"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that lives all along, told through Optuna's own calls, gives the same points."""
    monkeypatch.setattr(samplers, "_DIGITS", 17)  # all of them
    trials = 40
    ways: list[Direction] = ["maximize", "minimize"] if kind == "nsga2" else ["maximize"]
    ours = InStudy(kind, LOWEST, trials, ways)
    space: dict[str, Any] = {
        str(index): optuna.distributions.FloatDistribution(low, 1.0)
        for index, low in enumerate(LOWEST)
    }
    logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)
    study, tried = optuna.create_study(directions=ways), list[Tried]()
    made: dict[str, Any] = {
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
        "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    for number in range(trials):
        (trial,) = ours.draw(tried, [None], 7)
        study.sampler = made[kind](seed_of(7, number))
        if kind == "nsga2":  # parents are listed by number once they are chosen
            succeeded = sum(trial.values is not None for trial in tried)
            study.sampler.get_parent_population(study, succeeded // 4)
        theirs = study.ask(space)
        assert trial.point == rounded([theirs.params[name] for name in space], LOWEST)
        if number % 5 == 4:
            study.tell(theirs, state=optuna.trial.TrialState.FAIL)
        else:
            values = (quality(trial.point), sum(trial.point))[: len(ways)]
            study.tell(theirs, values)
            trial.values = values
        trial.arrival = number
        tried.append(trial)
    if kind == "nsga2":
        assert [trial.generation for trial in tried][-1] == 8  # of 4 that succeeded each


def test_cma_es_is_that_of_the_package() -> None:
    """One trial at a time: the points of an optimizer that is told each of its generations."""
    ours, tried = CmaEs(LOWEST), list[Tried]()
    lowest = np.array(LOWEST)
    theirs = cmaes.CMA(np.full(3, 0.5), 1 / 6, bounds=np.array([[0, 1]] * 3), n_max_resampling=30)
    generation: list[tuple[Any, float]] = []
    for number in range(10 * theirs.population_size):
        (trial,) = ours.draw(tried, [None], 3)
        theirs.reseed_rng(seed_of(3, number))
        assert trial.point == rounded((lowest + theirs.ask() * (1 - lowest)).tolist(), LOWEST)
        trial.arrival, trial.values = number, (quality(trial.point),)
        tried.append(trial)
        generation.append(((np.array(trial.point) - lowest) / (1 - lowest), -trial.values[0]))
        if len(generation) == theirs.population_size:
            theirs.tell(generation)
            generation = []
    assert theirs.generation == 10
    assert max(quality(trial.point) for trial in tried) > -1e-2


def test_cma_es_leaves_nothing_out_whatever_ends_first() -> None:
    """Generations are counted by arrival: with all but the last trial in, all are used."""
    drawn = CmaEs(LOWEST).draw([], [None] * 15, 1)
    arrivals = np.random.default_rng(0).permutation(15)
    for trial, arrival in zip(drawn, arrivals, strict=True):
        trial.arrival, trial.values = int(arrival), (quality(trial.point),)
    late = next(trial for trial in drawn if trial.arrival == 14)  # of the third generation
    (before,) = CmaEs(LOWEST).draw(drawn, [None], 1)
    late.values = (100.0,)
    (after,) = CmaEs(LOWEST).draw(drawn, [None], 1)
    assert before == after
    late.arrival = -1  # the first of all
    (other,) = CmaEs(LOWEST).draw(drawn, [None], 1)
    assert other != before


# --- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_beats_random(sampler: Literal["tpe", "cmaes"]) -> None:
    toy = chain(10)

    def reached(kind: Literal["tpe", "cmaes", "random"], seed: int) -> float:
        problem = replace(toy.problem, seed=seed)
        history = play(OptunaSpec(sampler=kind, trials=60), Toy(problem, toy.score))
        return max(outcome.score or -np.inf for outcome in history.outcomes.values())

    gains = [reached(sampler, seed) - reached("random", seed) for seed in range(6)]
    assert wilcoxon(gains, alternative="greater").pvalue < 0.05


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_begins_at_the_uniform_plan(sampler: Literal["tpe", "cmaes", "nsga2"]) -> None:
    problem = known().problem
    (first,) = OptunaSearch(OptunaSpec(sampler=sampler), problem).ask(1)
    uniform = uniform_plan(problem.cost, problem.budget, problem.choices)
    assert all(a >= b for a, b in zip(first.plan, uniform, strict=True))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_with_the_score_alone_the_budget_is_used_up(
    sampler: Literal["tpe", "cmaes", "random"],
) -> None:
    toy = chain(6)
    problem = toy.problem
    for proposal in play(OptunaSpec(sampler=sampler, trials=25), toy).proposals:
        for group, options in enumerate(problem.choices):
            for wider in options[options.index(proposal.plan[group]) + 1 :][:1]:
                plan = (*proposal.plan[:group], wider, *proposal.plan[group + 1 :])
                assert not problem.budget.admits(problem.cost.of(plan))


def test_where_everything_fits_one_trial_is_enough() -> None:
    toy = chain(4, share=1.0)
    history = play(OptunaSpec(trials=50), toy)
    assert [proposal.plan for proposal in history.proposals] == [toy.problem.full]
    proposals = play(OptunaSpec(sampler="nsga2", trials=12), toy).proposals
    assert sum(proposal.solve is None for proposal in proposals) == 12


def test_a_failed_trial_teaches_nothing() -> None:
    """Whatever it might have scored, the search goes on alike."""
    toy = chain(4)
    for sampler in ("tpe", "cmaes"):
        spec = OptunaSpec(sampler=sampler, trials=24)
        plans = []
        for score in (None, float("nan")):
            strategy = OptunaSearch(spec, toy.problem)
            for number in range(24):
                (proposal,) = strategy.ask(1)
                value = score if number % 3 == 1 else toy.score(proposal.plan)
                strategy.tell(Outcome(number, proposal.plan, value))
            plans.append(strategy.state_dict()["tried"])
        assert plans[0] == plans[1]


# --- several objectives --------------------------------------------------------------------------


def test_the_front_is_what_no_other_trial_beats() -> None:
    generator = np.random.default_rng(1)
    objectives: tuple[Objective, ...] = ("score", "macs", "params")
    points = {
        int(number): tuple(map(float, generator.integers(0, 4, 3)))
        for number in generator.permutation(80)
    }

    def better(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        no_worse = a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2]
        return no_worse and a != b

    expected = [
        number
        for number, point in points.items()
        if not any(better(other, point) for other in points.values())
        and not any(other == point and n > number for n, other in points.items())
    ]
    assert len(expected) < sum(points[n] in [points[e] for e in expected] for n in points)
    assert front(objectives, points) == tuple(sorted(expected))
    assert front(objectives, {}) == ()


def test_nsga2_spreads_below_the_budget() -> None:
    toy = chain(8)
    problem = toy.problem
    strategy = OptunaSearch(OptunaSpec(sampler="nsga2", trials=80), problem)
    scores: dict[int, tuple[float, float]] = {}
    while not strategy.done:
        for proposal in strategy.ask(4):
            score = toy.score(proposal.plan)
            assert score is not None
            scores[proposal.number] = (score, float(problem.cost.of(proposal.plan)["macs"]))
            strategy.tell(Outcome(proposal.number, proposal.plan, score))
    family = strategy.family
    assert family == front(("score", "macs"), scores)
    assert strategy.best == max(family, key=lambda number: scores[number][0])
    limit = problem.budget.limits["macs"]
    shares = sorted(scores[number][1] / limit for number in family)
    assert shares[0] < 0.6
    assert shares[-1] > 0.95
    assert max(b - a for a, b in itertools.pairwise(shares)) < 0.3
    assert not OptunaSearch(OptunaSpec(), problem).family


def ended(
    points: int | None, gain: float | None
) -> tuple[OptunaSearch, list[Proposal], dict[int, Plan]]:
    """A search by `nsga2` whose plans, solved for, gain so much or fail.

    Returns:
        the strategy, what it had solved for, and the front before that by number.
    """
    toy = chain(8)
    strategy = OptunaSearch(OptunaSpec(sampler="nsga2", trials=60, points=points), toy.problem)
    plans, before, solved = dict[int, Plan](), dict[int, Plan](), list[Proposal]()
    while not strategy.done:
        for proposal in strategy.ask(3):
            score = toy.score(proposal.plan)
            assert score is not None
            plans[proposal.number] = proposal.plan
            if proposal.solve is not None:
                before = before or {number: plans[number] for number in strategy.family}
                solved.append(proposal)
                score = None if gain is None else score + gain
            strategy.tell(Outcome(proposal.number, proposal.plan, score))
    return strategy, solved, before


@pytest.mark.parametrize("points", [None, 0, 1, 3, 50])
def test_the_best_of_the_front_and_others_along_it_are_solved_for(points: int | None) -> None:
    strategy, solved, before = ended(points, 0.5)
    assert [proposal.number for proposal in solved] == list(range(60, 60 + len(solved)))
    assert {proposal.solve for proposal in solved} == {"full"}
    wanted = 8 if points is None else points
    assert len(solved) == 1 + min(wanted, len(before) - 1)
    assert strategy.points == tuple(proposal.number for proposal in solved[1:])
    assert [proposal.tags for proposal in solved[1:]] == [
        {"point": place} for place in range(1, len(solved))
    ]
    costs = [chain(8).problem.cost.of(proposal.plan)["macs"] for proposal in solved]
    assert costs[1:] == sorted(set(costs[1:])), "the cheapest first, each another one"
    if len(solved) > 2:
        assert {proposal.plan for proposal in solved} <= set(before.values())
        cheapest = min(chain(8).problem.cost.of(plan)["macs"] for plan in before.values())
        assert costs[1] == cheapest
    assert strategy.best == 60
    assert {proposal.number for proposal in solved} <= set(strategy.family)


def test_what_cannot_be_solved_for_stays_as_it_was_scored() -> None:
    strategy, solved, before = ended(None, None)
    assert solved
    assert strategy.family == tuple(before)
    assert strategy.best in before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampler": "tpe", "objectives": ["score", "macs"]}, "for the sampler nsga2"),
        ({"sampler": "tpe", "points": 3}, "for the sampler nsga2"),
        ({"sampler": "nsga2", "objectives": ["score"]}, "two or more"),
        ({"sampler": "nsga2", "objectives": ["score", "score"]}, "each named once"),
        ({"sampler": "nsga2", "objectives": ["macs", "params"]}, "include score"),
        ({"sampler": "nsga2", "objectives": ["score", "speed"]}, "Input should be"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OptunaSpec.model_validate(values)
