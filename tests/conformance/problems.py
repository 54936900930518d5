"""Search problems without a network: costs and scores are functions of the plan."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as draw

from espalier.format.ir import Graph
from search.cost import Budget
from search.cost.polynomial import Polynomial, product, total
from search.cost.terms import Terms
from search.space import Affine, Plan, SearchSpace, widths
from search.strategies import REGISTRY
from search.strategies.base import IntArray, Outcome, Problem, Proposal, Strategy
from search.strategy_specs import StrategySpec

Score = Callable[[Plan], float | None]


@dataclass(frozen=True)
class Chain:
    """The cost of a chain of layers, one group between each two.

    Attributes:
        full: the full widths.
        ends: channels of the input and of the output.
        positions: multiply-accumulates that each weight takes part in, one a layer.
    """

    full: Plan
    ends: tuple[int, int]
    positions: tuple[int, ...]

    def many(self, plans: IntArray, names: Sequence[str] | None = None) -> Mapping[str, IntArray]:
        columns = [np.full(len(plans), self.ends[0]), *plans.T, np.full(len(plans), self.ends[1])]
        weights = [a * b for a, b in itertools.pairwise(columns)]
        layers = list(zip(itertools.pairwise(columns), self.positions, strict=True))
        costs = {
            "macs": np.sum([w * p for w, p in zip(weights, self.positions, strict=True)], axis=0),
            "params": np.sum(weights, axis=0),
            "peak_activation_bytes": np.max([4 * p * (a + b) for (a, b), p in layers], axis=0),
        }
        return {name: costs[name] for name in names or costs}

    def of(self, plan: Plan) -> Mapping[str, int]:
        return {name: int(values[0]) for name, values in self.many(np.array([plan])).items()}

    def polynomials(self, name: str) -> tuple[Polynomial, ...]:
        """As `CostModel.polynomials`."""
        ends = {0: self.ends[0], len(self.full) + 1: self.ends[1]}
        sizes = [
            Affine(ends[i]) if i in ends else Affine(0, ((i - 1, 1),))
            for i in range(len(self.full) + 2)
        ]
        layers = list(zip(itertools.pairwise(sizes), self.positions, strict=True))
        terms = Terms()
        if name == "peak_activation_bytes":
            return tuple(
                total([product(4 * p, [a], terms), product(4 * p, [b], terms)])
                for (a, b), p in layers
            )
        return (total(product(p if name == "macs" else 1, pair, terms) for pair, p in layers),)

    @property
    def space(self) -> SearchSpace:
        """Of no network, so without sizes."""
        return SearchSpace(Graph((), {}, {}, {}, ()), (), (), {}, {})


@dataclass(frozen=True)
class Linear:
    """A cost that is a sum over the groups, each with a weight of its own a channel."""

    full: Plan
    weights: tuple[int, ...]

    def many(self, plans: IntArray, names: Sequence[str] | None = None) -> Mapping[str, IntArray]:
        return {name: plans @ np.array(self.weights) for name in names or ("macs",)}

    def of(self, plan: Plan) -> Mapping[str, int]:
        return {"macs": int(np.dot(plan, self.weights))}

    def polynomials(self, _name: str) -> tuple[Polynomial, ...]:
        """As `CostModel.polynomials`."""
        return ({(group,): weight for group, weight in enumerate(self.weights) if weight},)

    @property
    def space(self) -> SearchSpace:
        """Of no network, so without sizes."""
        return SearchSpace(Graph((), {}, {}, {}, ()), (), (), {}, {})


@dataclass(frozen=True)
class Toy:
    """A problem and what its plans are worth."""

    problem: Problem
    score: Score


def logarithmic(values: Sequence[float]) -> Callable[[Plan], float]:
    """Worth that grows with each width, less and less: `sum(value * log(width))`."""
    return lambda plan: float(np.dot(values, np.log(plan)))


@draw.composite
def _widths(pick: draw.DrawFn, channels: int) -> tuple[int, ...]:
    """What one group may keep: in steps of its own, any widths, or nothing but all of them."""
    if pick(draw.booleans()):
        multiple, minimum = pick(draw.sampled_from([1, 2, 8])), pick(draw.integers(1, 4))
        return widths(channels, multiple=multiple, minimum=minimum)
    return (*sorted(pick(draw.sets(draw.integers(1, channels))) - {channels}), channels)


@draw.composite
def toys(pick: draw.DrawFn) -> Toy:
    """Chains of one to five groups under one to three limits that can just be met, or easily."""
    groups = pick(draw.integers(1, 5))
    full = tuple(pick(draw.integers(1, 24)) for _ in range(groups))
    positions = tuple(pick(draw.sampled_from([1, 4, 16])) for _ in range(groups + 1))
    cost = Chain(full, (3, 10), positions)
    choices = tuple(pick(_widths(count)) for count in full)
    least, most = cost.of(tuple(options[0] for options in choices)), cost.of(full)
    names = pick(draw.sets(draw.sampled_from(sorted(most)), min_size=1))
    limits = {}
    for name in sorted(names):
        share = pick(draw.floats(0, 1))
        limits[name] = least[name] + int(share * (most[name] - least[name]))
    values = [pick(draw.floats(0, 4)) for _ in range(groups)]
    score = logarithmic(values)
    problem = Problem(cost, Budget(limits), choices, pick(draw.integers(0, 2**40)), score(full))
    return Toy(problem, score)


def losses_of(toy: Toy, proposal: Proposal, score: float | None) -> tuple[float, ...] | None:
    """What a trial says of its group's widths, if it is asked for and did not fail."""
    group, full = proposal.levels_of, toy.problem.full
    if group is None or score is None:
        return None
    plans = [(*full[:group], width, *full[group + 1 :]) for width in range(1, full[group] + 1)]
    drops = [toy.problem.baseline - (toy.score(plan) or 0.0) for plan in plans]
    return tuple(np.maximum.accumulate(np.maximum(drops, 0.0)[::-1])[::-1].tolist())


@dataclass
class History:
    """What happened in one search."""

    proposals: list[Proposal] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    best: int | None = None
    state: str = ""

    @property
    def best_plan(self) -> Plan | None:
        return None if self.best is None else self.proposals[self.best].plan


def start(spec: StrategySpec, problem: Problem) -> Strategy:
    return REGISTRY[type(spec)](spec, problem)


def restored(spec: StrategySpec, problem: Problem, strategy: Strategy) -> Strategy:
    """The strategy after a restart: only its state, as text, survives."""
    text = json.dumps(strategy.state_dict(), allow_nan=False)
    again = start(spec, problem)
    again.load_state_dict(json.loads(text))
    return again


def play(
    spec: StrategySpec,
    toy: Toy,
    *,
    slots: int = 1,
    arrival: np.random.Generator | None = None,
    restart: Iterator[bool] | None = None,
) -> History:
    """Run a search to its end.

    Args:
        slots: trials that run at once.
        arrival: shuffles the order in which running trials end; in order if `None`.
        restart: after each call of the strategy, whether it is restored from its state; never
            if `None`.
    """
    problem, restart = toy.problem, restart or itertools.repeat(False)
    strategy, history, running = start(spec, problem), History(), list[Proposal]()
    for _ in range(20_000):
        if strategy.done:
            break
        asked = strategy.ask(slots - len(running))
        if next(restart):
            strategy = restored(spec, problem, strategy)
        assert asked or running, "waits for nothing"
        running += asked
        history.proposals += asked
        proposal = running.pop(int(arrival.integers(len(running))) if arrival else 0)
        score = toy.score(proposal.plan)
        cost = problem.cost.of(proposal.plan)
        outcome = Outcome(
            proposal.number, proposal.plan, score, {}, cost, losses_of(toy, proposal, score)
        )
        history.outcomes[proposal.number] = outcome
        strategy.tell(outcome)
        if next(restart):
            strategy = restored(spec, problem, strategy)
    assert strategy.done
    assert not running
    assert not strategy.ask(5)
    history.best, history.state = strategy.best, json.dumps(strategy.state_dict())
    return history
