"""What holds for every strategy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw

from search.cost import Budget
from search.space import widths
from search.strategies import REGISTRY
from search.strategies.base import Outcome, Problem
from search.strategies.fitting import uniform_plan
from search.strategy_specs import (
    LEARNING,
    AllocateSpec,
    AmcSpec,
    NetAdaptSpec,
    OptunaSpec,
    RandomSpec,
    RewardSpec,
    SensitivitySpec,
    StrategySpec,
    UniformSpec,
)
from tests.conformance.problems import Chain, Toy, logarithmic, play, restored, start, toys

SPECS: dict[str, StrategySpec] = {
    "uniform": UniformSpec(),
    "random": RandomSpec(trials=7),
    "netadapt": NetAdaptSpec(first_step=0.1, decay=0.95),
    "netadapt-ratio": NetAdaptSpec(first_step=0.1, decay=0.95, selection="ratio"),
    "netadapt-stretched": NetAdaptSpec(first_step=0.01, decay=0.6),
    "sensitivity": SensitivitySpec(),
    "sensitivity-coarse": SensitivitySpec(levels=2),
    "optuna-tpe": OptunaSpec(sampler="tpe", trials=6),
    "optuna-cmaes": OptunaSpec(sampler="cmaes", trials=10),
    "optuna-nsga2": OptunaSpec(sampler="nsga2", trials=6),
    "optuna-random": OptunaSpec(sampler="random", trials=2),
    "allocate": AllocateSpec(trials=5, finalists=2, points=2),
    "allocate-once": AllocateSpec(trials=1, finalists=1),
    "amc": AmcSpec(trials=5, warmup=2, hidden=8),
    "amc-guaranteed": AmcSpec(trials=3, warmup=1, hidden=8, reward=RewardSpec(kind="guaranteed")),
}
WITHIN_THROUGHOUT = ("uniform", "random", "optuna", "amc")  # every proposal is within the budget

every = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
parallel_by_design = pytest.mark.parametrize(
    "spec", [pytest.param(s, id=id) for id, s in SPECS.items() if s.name not in LEARNING]
)
learning = pytest.mark.parametrize(
    "spec", [pytest.param(s, id=id) for id, s in SPECS.items() if s.name in LEARNING]
)
property_test = settings(
    deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def failing(toy: Toy, share: float) -> Toy:
    """The same problem, where some trials fail for good, told by their plan."""

    def score(plan: tuple[int, ...]) -> float | None:
        fails = np.random.default_rng(plan).random() < share
        return None if fails else toy.score(plan)

    return Toy(toy.problem, score)


def test_every_registered_strategy_is_here() -> None:
    assert {type(spec) for spec in SPECS.values()} == set(REGISTRY)


@every
@property_test
@given(toy=toys())
def test_budget_is_never_exceeded(spec: StrategySpec, toy: Toy) -> None:
    history = play(spec, toy, slots=3)
    assert history.best_plan is not None
    limits = toy.problem.budget.limits
    judged = [history.best_plan]
    if spec.name in WITHIN_THROUGHOUT:
        judged += [proposal.plan for proposal in history.proposals]
    for plan in judged:
        cost = toy.problem.cost.of(plan)
        assert all(cost[name] <= limit for name, limit in limits.items())


@every
@property_test
@given(toy=toys())
def test_proposals_are_numbered_and_of_allowed_widths(spec: StrategySpec, toy: Toy) -> None:
    history = play(spec, toy, slots=4)
    for number, proposal in enumerate(history.proposals):
        assert proposal.number == number
        for width, options in zip(proposal.plan, toy.problem.choices, strict=True):
            assert width in options
        if proposal.parent is not None:
            parent = history.proposals[proposal.parent]
            assert parent.number < number
            assert all(a <= b for a, b in zip(proposal.plan, parent.plan, strict=True))
    assert history.best in history.outcomes


@every
@property_test
@given(toy=toys(), restarts=draw.lists(draw.booleans(), min_size=1, max_size=40))
def test_resumed_equals_uninterrupted(spec: StrategySpec, toy: Toy, restarts: list[bool]) -> None:
    straight = play(spec, toy, slots=3, arrival=np.random.default_rng(5))
    again = play(
        spec,
        toy,
        slots=3,
        arrival=np.random.default_rng(5),
        restart=itertools.cycle([*restarts, True]),
    )
    assert again == straight


@learning
@property_test
@given(toy=toys(), slots=draw.integers(1, 9), order=draw.integers(0, 1000))
def test_same_slots_and_order_give_the_same_search(
    spec: StrategySpec, toy: Toy, slots: int, order: int
) -> None:
    one, again = (
        play(spec, toy, slots=slots, arrival=np.random.default_rng(order)) for _ in range(2)
    )
    assert again == one


@parallel_by_design
@property_test
@given(
    toy=toys(),
    share=draw.sampled_from([0.0, 0.3]),
    slots=draw.integers(1, 9),
    order=draw.integers(0, 1000),
)
def test_same_for_any_number_of_slots_and_any_order(
    spec: StrategySpec, toy: Toy, share: float, slots: int, order: int
) -> None:
    toy = failing(toy, share)
    one = play(spec, toy)
    many = play(spec, toy, slots=slots, arrival=np.random.default_rng(order))
    # The score to beat is the best so far, which is a matter of order.
    assert [replace(proposal, floor=None) for proposal in many.proposals] == [
        replace(proposal, floor=None) for proposal in one.proposals
    ]
    assert many.best == one.best


@every
@property_test
@given(toy=toys(), share=draw.floats(0.1, 1))
def test_failed_trials_never_win_nor_hang(spec: StrategySpec, toy: Toy, share: float) -> None:
    history = play(spec, failing(toy, share), slots=2)
    if history.best is not None:
        assert history.outcomes[history.best].score is not None
        assert history.best_plan is not None
        assert toy.problem.budget.admits(toy.problem.cost.of(history.best_plan))


@every
@property_test
@given(toy=toys())
def test_what_may_still_win_is_needed_if_it_was_tuned(spec: StrategySpec, toy: Toy) -> None:
    """At every moment: whoever is a parent or the winner later on is needed now."""
    strategy, problem = start(spec, toy.problem), toy.problem
    needed_after: list[tuple[int, frozenset[int]]] = []
    parents: list[tuple[int, int]] = []
    tuned: set[int] = set()
    while not strategy.done:
        (proposal,) = strategy.ask(1)
        if proposal.parent is not None:
            parents.append((proposal.number, proposal.parent))
        if proposal.tuning_steps:
            tuned.add(proposal.number)
        strategy.tell(Outcome(proposal.number, proposal.plan, toy.score(proposal.plan)))
        needed_after.append((proposal.number, strategy.needed))
        assert all(number <= proposal.number for number in strategy.needed)
    for child, parent in parents:
        assert all(parent in needed for told, needed in needed_after if parent <= told < child)
    assert strategy.best is not None
    if strategy.best in tuned:
        assert all(
            strategy.best in needed for told, needed in needed_after if told >= strategy.best
        )
    assert restored(spec, problem, strategy).needed == strategy.needed


@every
@property_test
@given(toy=toys(), share=draw.floats(0, 0.5))
def test_fraction_rises_from_0_to_1(spec: StrategySpec, toy: Toy, share: float) -> None:
    strategy, some_fail = start(spec, toy.problem), failing(toy, share)
    fractions = [strategy.fraction]
    while not strategy.done:
        for proposal in strategy.ask(3):
            fractions.append(strategy.fraction)
            outcome = Outcome(proposal.number, proposal.plan, some_fail.score(proposal.plan))
            strategy.tell(outcome)
    fractions.append(strategy.fraction)
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)


def known() -> Toy:
    """Six groups of which every second is worth little and costs as much as the others."""
    full = (32,) * 6
    cost = Chain(full, (3, 10), (64, 64, 16, 16, 16, 4, 4))
    limits = {"macs": cost.of(full)["macs"] // 2}
    choices = tuple(widths(count) for count in full)
    score = logarithmic([3.0, 0.1, 3.0, 0.1, 3.0, 0.1])
    return Toy(Problem(cost, Budget(limits), choices, 0, score(full)), score)


@pytest.mark.parametrize("name", ["random", "netadapt", "netadapt-ratio", "sensitivity"])
@pytest.mark.parametrize("seed", range(5))
def test_better_than_uniform_on_a_known_problem(name: str, seed: int) -> None:
    toy = known()
    spec = RandomSpec(trials=30) if name == "random" else SPECS[name]
    problem = toy.problem
    uniform = toy.score(uniform_plan(problem.cost, problem.budget, problem.choices))
    found = play(spec, Toy(replace(problem, seed=seed), toy.score)).best_plan
    assert found is not None
    best = toy.score(found)
    assert best is not None
    assert uniform is not None
    assert best > uniform


@every
def test_asking_for_nothing_changes_nothing(spec: StrategySpec) -> None:
    strategy = start(spec, known().problem)
    before = strategy.state_dict()
    assert not strategy.ask(0)
    assert strategy.state_dict() == before
    assert [proposal.number for proposal in strategy.ask(1)] == [0]


@every
def test_each_outcome_is_taken_once(spec: StrategySpec) -> None:
    strategy = start(spec, known().problem)
    (proposal,) = strategy.ask(1)
    with pytest.raises(ValueError, match="another plan"):
        strategy.tell(Outcome(0, (1, *proposal.plan[1:]), 1.0))
    with pytest.raises(ValueError, match="not outstanding"):
        strategy.tell(Outcome(1, proposal.plan, 1.0))
    strategy.tell(Outcome(0, proposal.plan, 1.0))
    with pytest.raises(ValueError, match="not outstanding"):
        strategy.tell(Outcome(0, proposal.plan, 1.0))


@every
def test_a_score_that_is_no_number_is_a_failure(spec: StrategySpec) -> None:
    toy = known()
    history = play(spec, Toy(toy.problem, lambda _: float("nan")))
    assert history.best is None


@every
def test_a_state_of_another_strategy_is_refused(spec: StrategySpec) -> None:
    other = next(other for other in SPECS.values() if other.name != spec.name)
    toy = known()
    state = start(other, toy.problem).state_dict()
    with pytest.raises(ValueError, match=r"a state of \w+ is none of \w+"):
        start(spec, toy.problem).load_state_dict(state)
