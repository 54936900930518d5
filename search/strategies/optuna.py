"""Black-box search over keep ratios: TPE, CMA-ES, NSGA-II and random, through Optuna.

A trial is a point in a box: a keep ratio for each group, from its narrowest allowed width to 1.
What is tried is the point's projection onto the budget, so that every trial is within it:

- One objective, the score: the ratios are scaled by one common factor until the budget is just
  met (`fitting.fit`), and what rounding leaves goes to the groups, those of the largest ratio
  first. So only the proportions of the ratios matter; the direction along them is flat.
- Several objectives (NSGA-II): each group keeps the widest of its allowed widths that does not
  exceed its ratio, and only a plan above the budget is scaled down to it. So the front reaches
  from the budget far below it.

The samplers are told the points that they drew. Telling them the ratios of the plan instead, after
projection and rounding, was no better for TPE and worse for CMA-ES on chains of 20 groups.

Except for `random`, the first trial is the uniform plan with its slack used up, so that the search
never loses to it. The first population of NSGA-II is spread over the costs within the budget on
purpose: ratios that are drawn independently of each other almost all add up to the same cost.
When its trials are told, the front's best and `points` others along it are solved for in full, so
that what is taken from the front is what was scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.cost import Budget
from search.space import Plan, smallest
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import fit, uniform_plan, widen
from search.strategies.front import directions, front, values_of
from search.strategies.ledger import Leader, Ledger
from search.strategies.samplers import (
    RESOLUTION,
    CmaEs,
    InStudy,
    Point,
    Sampler,
    Tried,
    rounded,
    seed_of,
)
from search.strategy_specs import OptunaSpec


class OptunaSearch:
    """Learns from whatever has returned, so the search depends on how many trials run at once."""

    def __init__(self, config: OptunaSpec, problem: Problem) -> None:
        self._config = config
        self._problem = problem
        self._objectives = config.aims()
        self._full = np.array(problem.full)
        self._free = [group for group, options in enumerate(problem.choices) if len(options) > 1]
        self._lowest: Point = tuple(
            problem.choices[group][0] / problem.choices[group][-1] for group in self._free
        )
        # Where there is but one plan to propose, it is proposed once.
        everything_fits = problem.budget.admits(problem.cost.of(problem.full))
        decided = not self._free or (everything_fits and not self._several)
        self._trials = 1 if decided else config.trials
        self._sampler = self._make_sampler()
        self._ledger = Ledger(config.name)
        self._leader = Leader()
        self._tried: list[Tried] = []
        self._arrivals = 0
        self._finals: dict[int, Plan] | None = None if self._several else {}  # winner, points
        self._solved: dict[int, tuple[float, ...] | None] = {}  # values of the finals

    @property
    def _several(self) -> bool:
        return len(self._objectives) > 1

    @property
    def done(self) -> bool:
        if self._finals is None:
            return False
        settled = self._ledger.next_number - len(self._ledger.outstanding)
        return settled == self._trials + len(self._finals)

    @property
    def fraction(self) -> float:
        if self.done:
            return 1.0
        most = self._trials + (1 + self._config.front_points) * self._several
        return (self._arrivals + len(self._solved)) / most

    @property
    def best(self) -> int | None:
        if not self._several:
            return self._leader.number
        score = self._objectives.index("score")
        values = self._values()
        return max(self.family, key=lambda number: (values[number][score], number), default=None)

    @property
    def family(self) -> tuple[int, ...]:
        """The trials on the front, if there are several objectives."""
        return front(self._objectives, self._values()) if self._several else ()

    @property
    def points(self) -> tuple[int, ...]:
        """Trials that solve for plans along the front, the cheapest first."""
        return tuple(self._finals or ())[1:]

    @property
    def needed(self) -> frozenset[int]:
        return frozenset(self._solved)  # of all others the plan is enough to make them again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        if self._ledger.next_number >= self._trials:
            return self._ask_finals(n)
        start = len(self._tried)
        count = min(max(n, 0), self._trials - start)
        if count == 0:
            return []
        if self._free:
            fixed = [self._designed(number) for number in range(start, start + count)]
            drawn = self._sampler.draw(self._tried, fixed, self._problem.seed)
        else:
            drawn = [Tried(())]
        self._tried += drawn
        return [self._ledger.issue(self._plan(trial.point)) for trial in drawn]

    def _ask_finals(self, n: int) -> list[Proposal]:
        """The best of the front and some along it, to be solved for once all trials are told."""
        proposals: list[Proposal] = []
        for number, plan in (self._finals or {}).items():
            if number >= self._ledger.next_number and len(proposals) < n:
                place = number - self._trials  # the first is the winner so far
                tags = {"point": place} if place else {"final": 1}
                proposals.append(self._ledger.issue(plan, solve="full", tags=tags))
        return proposals

    def _plan_finals(self) -> dict[int, Plan]:
        """The winner so far, then plans evenly spread in cost over the rest of the front."""
        best, values = self.best, self._values()
        if best is None:
            return {}
        at = next(i for i, name in enumerate(self._objectives) if name != "score")
        cost = {number: values[number][at] for number in self.family}
        rest, chosen = sorted(cost.keys() - {best}), list[int]()
        count = min(self._config.front_points, len(rest))
        for wanted in np.linspace(min(cost.values()), cost[best], count, endpoint=False).tolist():
            chosen.append(min(rest, key=lambda number: abs(cost[number] - wanted)))
            rest.remove(chosen[-1])
        numbers = [best, *sorted(chosen, key=cost.__getitem__)]
        plans = [self._plan(self._tried[number].point) for number in numbers]
        return dict(enumerate(plans, self._trials))

    def tell(self, outcome: Outcome, /) -> None:
        score = self._ledger.settle(outcome)
        values = None
        if score is not None:
            cost = self._problem.cost.of(tuple(outcome.plan)) if self._several else {}
            values = values_of(self._objectives, score, cost)
        if outcome.number >= self._trials:
            self._solved[outcome.number] = values
            return
        self._leader.offer(outcome.number, score)
        trial = self._tried[outcome.number]
        trial.arrival, trial.values = self._arrivals, values
        self._arrivals += 1
        if self._finals is None and self._arrivals == self._trials:
            self._finals = self._plan_finals()

    def _values(self) -> dict[int, tuple[float, ...]]:
        """Of the trials that succeeded, by number."""
        tried = dict(enumerate(trial.values for trial in self._tried)) | self._solved
        return {number: values for number, values in tried.items() if values is not None}

    def _make_sampler(self) -> Sampler:
        if self._config.sampler == "cmaes":
            return CmaEs(self._lowest)
        return InStudy(
            self._config.sampler, self._lowest, self._trials, directions(self._objectives)
        )

    def _designed(self, number: int) -> Point | None:
        """The point of a trial that is not the sampler's to choose."""
        if self._config.sampler == "random":
            return None
        if number == 0:
            problem = self._problem
            uniform = uniform_plan(problem.cost, problem.budget, problem.choices)
            ratios = np.array(uniform) / self._full
            return rounded(ratios[self._free].tolist(), self._lowest)
        if isinstance(self._sampler, InStudy) and number < self._sampler.population * self._several:
            return self._spread(np.random.default_rng(seed_of(self._problem.seed, number)))
        return None

    def _spread(self, generator: np.random.Generator) -> Point:
        """A point of the first population: bold or even, of any cost within the budget."""
        problem = self._problem
        least = problem.cost.of(smallest(problem.choices))
        share, spread = generator.random(2) ** (0.5, 1.0)  # costs near the budget are likelier
        limits = {
            name: least[name] + int(share * (limit - least[name]))
            for name, limit in problem.budget.limits.items()
        }
        ratios = (1.0 - generator.random(len(problem.choices))) ** spread
        plan = fit(problem.cost, Budget(limits), problem.choices, ratios.tolist())
        return rounded((np.array(plan) / self._full)[self._free].tolist(), self._lowest)

    def _plan(self, point: Point) -> Plan:
        """The point's projection: see the module."""
        cost, budget, choices = self._problem.cost, self._problem.budget, self._problem.choices
        ratios = np.ones(len(choices))
        ratios[self._free] = point
        if self._several:
            most = (ratios + RESOLUTION) * self._full
            plan = tuple(
                max((width for width in options if width <= limit), default=options[0])
                for options, limit in zip(choices, most, strict=True)
            )
            if budget.admits(cost.of(plan)):
                return plan
            return fit(cost, budget, choices, ratios.tolist())
        plan = fit(cost, budget, choices, ratios.tolist())
        order = np.argsort(-ratios, kind="stable").tolist()
        plan = widen(cost, budget, choices, plan, order, steps=1)
        return widen(cost, budget, choices, plan, order)

    def state_dict(self) -> dict[str, Any]:
        return {
            "ledger": self._ledger.state_dict(),
            "leader": self._leader.state_dict(),
            "arrivals": self._arrivals,
            "tried": [
                [list(trial.point), trial.generation, trial.arrival, trial.values]
                for trial in self._tried
            ],
            "finals": None if self._finals is None else [[n, p] for n, p in self._finals.items()],
            "solved": [[number, values] for number, values in self._solved.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._leader.load_state_dict(state["leader"])
        self._arrivals = state["arrivals"]
        self._tried = [
            Tried(tuple(point), generation, arrival, None if values is None else tuple(values))
            for point, generation, arrival, values in state["tried"]
        ]
        finals = state["finals"]
        self._finals = None if finals is None else {n: tuple(plan) for n, plan in finals}
        self._solved = {
            number: None if values is None else tuple(values) for number, values in state["solved"]
        }
