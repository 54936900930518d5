"""The search methods, each with settings that give it the same number of evaluations.

How many trials a method makes follows from its settings and the network's groups, hardly from the
scores. So it is counted by playing the strategy through with random scores, which needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pydantic import ValidationError

from search.context import Problem
from search.cost import Budget
from search.spec import JobSpec
from search.strategies import create
from search.strategies.base import Outcome
from search.strategy_specs import StrategySpec

Fields = dict[str, Any]


class LeftOut(Exception):
    """A run that cannot be made, with the reason in one line."""


class TooMany(Exception):
    """A search that makes more trials than asked for."""


def played(problem: Problem, spec: JobSpec, most: int, seed: int) -> int:
    """How many trials a strategy makes when the scores are random.

    Raises:
        TooMany: more than `most`.
    """
    budget = Budget.resolve(spec.budget, problem.cost.full)
    choices = problem.choices(spec)
    strategy = create(spec.strategy, problem.cost, budget, choices, seed, baseline=1.0)
    scores = np.random.default_rng(seed)
    trials = 0
    while not strategy.done:
        for proposal in strategy.ask(1):
            trials += 1
            if trials > most:
                raise TooMany
            cost = problem.cost.of(proposal.plan)
            score = float(scores.random())
            strategy.tell(Outcome(proposal.number, proposal.plan, score, {}, cost))
    return trials


def _most(problem: Problem, spec: JobSpec, evaluations: int, fields: Iterator[Fields]) -> Fields:
    """Of some settings those with the most trials that are not too many, whatever the scores.

    Raises:
        LeftOut: all of them make too many.
    """
    best: tuple[int, Fields] | None = None
    for candidate in fields:
        strategy = _strategy(spec, candidate)
        try:
            trials = max(
                played(problem, spec.model_copy(update={"strategy": strategy}), evaluations, seed)
                for seed in range(3)
            )
        except TooMany:
            continue
        if best is None or trials > best[0]:
            best = trials, candidate
    if best is None:
        raise LeftOut(f"{evaluations} evaluations are too few for it in any setting")
    return best[1]


def _strategy(spec: JobSpec, fields: Fields) -> StrategySpec:
    return JobSpec.model_validate({**spec.model_dump(), "strategy": fields}).strategy


def _sensitivity(problem: Problem, spec: JobSpec, evaluations: int) -> Fields:
    levels = range(1, 1 + max(1, evaluations // len(problem.space.groups)))
    fields: Iterator[Fields] = ({"name": "sensitivity", "levels": count} for count in levels)
    return _most(problem, spec, evaluations, fields)


def _netadapt(problem: Problem, spec: JobSpec, evaluations: int) -> Fields:
    steps = np.geomspace(0.3, 0.005, 60).round(4)
    fields: Iterator[Fields] = (
        {"name": "netadapt", "first_step": float(step), "tuning_steps": 0} for step in steps
    )
    return _most(problem, spec, evaluations, fields)


METHODS: dict[str, Callable[[Problem, JobSpec, int], Fields]] = {
    "uniform": lambda *_: {"name": "uniform"},
    "random": lambda _problem, _spec, n: {"name": "random", "trials": n},
    "sensitivity": _sensitivity,
    "netadapt": _netadapt,
    "netadapt_tuned": lambda *given: {**_netadapt(*given), "tuning_steps": 10},
    "amc": lambda _problem, _spec, n: {"name": "amc", "trials": n, "warmup": n // 4},
    "tpe": lambda _problem, _spec, n: {"name": "optuna", "sampler": "tpe", "trials": n},
    "cmaes": lambda _problem, _spec, n: {"name": "optuna", "sampler": "cmaes", "trials": n},
    "allocate": lambda *_: {"name": "allocate"},
}
"""Settings of each method; `netadapt_tuned` stands outside the comparison, it trains in between.

`allocate` has its defaults, which make fewer evaluations, and a criterion of its own (`obs`).
"""


def strategy_of(method: str, problem: Problem, spec: JobSpec, evaluations: int) -> StrategySpec:
    """A method's strategy for about `evaluations` trials, not more (`uniform` needs one).

    Raises:
        LeftOut: the search does not have the method, or it needs more trials.
    """
    try:
        return _strategy(spec, METHODS[method](problem, spec, evaluations))
    except ValidationError as error:
        raise LeftOut(f"the search has no method {method!r}") from error
