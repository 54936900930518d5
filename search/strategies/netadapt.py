"""NetAdapt: one channel group at a time, the cost lowered step by step.

Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
ECCV 2018, arXiv:1804.03230. To be read beside Algorithm 1:

    Con_i = R_(i-1) - dR_i                   `NetAdapt._open`, the steps dR_i from `schedule`
    for each of K layers:
        choose the number of filters         `NetAdapt._candidates`
        choose which filters                 the job's criterion, outside the strategy
        short-term fine-tune                 `Proposal.tuning_steps`, outside the strategy
    pick the highest accuracy                `NetAdapt._winner`
    until R_i <= budget; long-term fine-tune the winner, outside the strategy

The proposals of an iteration are independent, so any number of them may run at once; the next
iteration begins when all their outcomes are told. Each starts from the previous winner's kept
channels and tuned weights. Every iteration's winner is kept: `NetAdapt.family`.

Deviations from the paper:

1. The resource is one number for any number of limits. With F the original's cost and L the
   limit, `R = max (cost - L) / (F - L)` over the limits that the original exceeds: 1 for the
   original, 0 when the budget is met, negative below it. For one limit this is the paper's
   resource on another scale. The paper lowers each of several resources in every iteration.
2. Costs are counted for the whole plan, coupled groups included, instead of summed from a table
   of layers that were measured on a device. A "layer" is a channel group.
3. A target is never below the budget, so that the last iteration ends as close under it as the
   widths of its winner allow. The reference code takes the full last step. Slack that is left is
   not filled up.
4. A schedule that would not reach the budget before its steps have shrunk to a tenth of the first
   is stretched: all steps grow by one factor, just enough (`schedule`). The reference code ends
   above the budget without saying so.
5. A group that cannot reach the target alone sits out, as in the reference code. If no group can,
   the step is halved, four times at most; if that does not help, the whole step is one proposal,
   in which all groups are narrowed alike and what this leaves under the target is given back,
   group by group. So every iteration lowers the cost, and the search always ends within the budget.
6. `selection="ratio"` is the reference code's rule, the smallest (drop in score + 1e-6) / (drop in
   resource + 1e-5), with the resource as in 1. There the drops are in percent and in the
   resource's own unit, and a loss cannot be the score.
7. A failed trial is out of the competition, and of equal trials the first group's wins. If all
   trials of an iteration fail, the search ends without a winner.
8. Which filters stay follows from the job's criterion, `l1` unless asked otherwise; in the paper
   it is the L2 norm (`criterion: l2`). Batch-norm statistics are estimated anew before a trial is
   scored, for which the paper has no step.
9. Trials are scored on a hold-out that neither tuning nor the test sees, as in the paper; the
   reference code scores them on the training set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.cost import Budget
from search.space import Plan
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.fitting import fit, narrowed, widen, widest
from search.strategies.ledger import Ledger
from search.strategy_specs import NetAdaptSpec

_SHORTEST = 0.1  # of the first step: below it, iterations cost more than they decide
_HALVINGS = 4


def schedule(first_step: float, decay: float, way: float) -> tuple[float, float]:
    """The first step and its decay, stretched if they would not go all the way.

    Step i is `first * decay ** (i - 1)`. The steps that are at least a tenth of the first one
    must add up to the way; if they do not, the first step is raised until they do.

    Args:
        first_step: share of the original cost removed by the first iteration.
        decay: factor on the step after each iteration, in (0, 1].
        way: share of the original cost to be removed in all, above 0.
    Returns:
        the first step as a share of the way, and the decay.
    """
    nominal = first_step / way
    if decay == 1:
        return nominal, decay
    steps = 1 + math.floor(math.log(_SHORTEST) / math.log(decay))
    reach = nominal * (1 - decay**steps) / (1 - decay)
    return nominal / min(1.0, reach), decay


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan of an iteration; the group that it narrows, or -1 for all of them alike."""

    plan: Plan
    group: int


class NetAdapt:
    """Narrows the network iteration by iteration until it is within the budget.

    Attributes:
        family: numbers of the winners so far, one an iteration, the widest first.
    """

    def __init__(self, config: NetAdaptSpec, problem: Problem) -> None:
        self._config = config
        self._problem = problem
        self._ledger = Ledger(config.name)
        full = problem.cost.of(problem.full)
        # Limits that the original exceeds, with the distance F - L; all others hold for good,
        # since no plan costs more than the original.
        self._distance = {
            name: full[name] - limit
            for name, limit in problem.budget.limits.items()
            if full[name] > limit
        }
        way = max((self._distance[name] / full[name] for name in self._distance), default=1.0)
        self._first_step, self._decay = schedule(config.first_step, config.decay, way)

        self.family: list[int] = []
        self._plan = problem.full  # the previous winner's
        self._score = problem.baseline
        self._iteration = 0
        self._start = 0  # number of the iteration's first proposal
        self._round: list[Candidate] = []
        self._scores: dict[int, float] = {}  # of the iteration's trials that succeeded
        self._done = False
        self._open()

    @property
    def done(self) -> bool:
        return self._done

    @property
    def fraction(self) -> float:
        if self._done or not self._distance:
            return float(self._done)
        return 1.0 - self._resource(self._plan)

    @property
    def best(self) -> int | None:
        if not self.family or (self._done and self._resource(self._plan) > 0):
            return None
        return self.family[-1]

    @property
    def needed(self) -> frozenset[int]:
        return frozenset((*self.family, *self._scores, *self._ledger.outstanding))

    def ask(self, n: int, /) -> Sequence[Proposal]:
        if self._done:
            return ()
        handed_out = self._ledger.next_number - self._start
        # The round's best so far. A ratio of drops is another order than that of the scores.
        by_score = self._config.selection == "accuracy"
        floor = max(self._scores.values(), default=None) if by_score else None
        return [
            self._ledger.issue(
                candidate.plan,
                parent=self.family[-1] if self.family else None,
                tuning_steps=self._config.tuning_steps,
                tags={"iteration": self._iteration, "group": candidate.group},
                floor=floor,
            )
            for candidate in self._round[handed_out : handed_out + max(n, 0)]
        ]

    def tell(self, outcome: Outcome, /) -> None:
        score = self._ledger.settle(outcome)
        if score is not None:
            self._scores[outcome.number] = score
        handed_out = self._ledger.next_number - self._start
        if handed_out == len(self._round) and not self._ledger.outstanding:
            self._close()

    def _open(self) -> None:
        """Begin an iteration: the target, and who can reach it."""
        self._start = self._ledger.next_number
        self._scores = {}
        if not self._distance:  # the original is within the budget: it is the only candidate
            self._round = [Candidate(self._plan, -1)]
            return
        self._iteration += 1
        resource = self._resource(self._plan)
        step = self._first_step * self._decay ** (self._iteration - 1)
        least = 1 / min(self._distance.values())  # a step of less than one unit would stand still
        steps = [max(step / 2**halvings, least) for halvings in range(_HALVINGS + 1)]
        for length in steps:
            self._round = self._candidates(self._limits(resource - length))
            if self._round:
                return
        self._round = [self._all_alike(self._limits(resource - steps[0]))]

    def _candidates(self, limits: Budget) -> list[Candidate]:
        """For each group on its own, the widest width with which the whole plan is admitted."""
        found = []
        for group, options in enumerate(narrowed(self._problem.choices, self._plan)):
            width = widest(self._problem.cost, limits, self._plan, group, options[:-1])
            if width is not None:
                plan = (*self._plan[:group], width, *self._plan[group + 1 :])
                found.append(Candidate(plan, group))
        return found

    def _all_alike(self, limits: Budget) -> Candidate:
        cost, choices = self._problem.cost, narrowed(self._problem.choices, self._plan)
        plan = fit(cost, limits, choices, [1.0] * len(choices))
        return Candidate(widen(cost, limits, choices, plan, range(len(choices))), -1)

    def _close(self) -> None:
        """End an iteration: its winner goes on, the others are released."""
        number = self._winner()
        if number is None:
            self._done = True
            return
        self.family.append(number)
        self._plan = self._round[number - self._start].plan
        self._score = self._scores[number]
        self._done = self._resource(self._plan) <= 0
        if self._done:
            self._scores = {}
        else:
            self._open()

    def _winner(self) -> int | None:
        def merit(number: int, score: float) -> float:
            if self._config.selection == "accuracy":
                return score
            plan = self._round[number - self._start].plan
            drop = self._resource(self._plan) - self._resource(plan)
            return -(self._score - score + 1e-6) / (drop + 1e-5)

        merits = {number: merit(number, score) for number, score in self._scores.items()}
        return min(merits, key=lambda number: (-merits[number], number), default=None)

    def _resource(self, plan: Plan) -> float:
        """R: 1 for the original, at most 0 within the budget."""
        cost, limits = self._problem.cost.of(plan), self._problem.budget.limits
        return max(
            ((cost[name] - limits[name]) / way for name, way in self._distance.items()),
            default=0.0,
        )

    def _limits(self, target: float) -> Budget:
        """The plans with `R <= target`, as absolute limits; never below the budget."""
        share = max(target, 0.0)
        return Budget(
            {
                name: self._problem.budget.limits[name] + math.floor(share * way)
                for name, way in self._distance.items()
            }
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "ledger": self._ledger.state_dict(),
            "family": list(self.family),
            "plan": list(self._plan),
            "score": self._score,
            "iteration": self._iteration,
            "start": self._start,
            "round": [[list(candidate.plan), candidate.group] for candidate in self._round],
            "scores": [[number, score] for number, score in self._scores.items()],
            "done": self._done,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self.family = list(state["family"])
        self._plan = tuple(state["plan"])
        self._score = state["score"]
        self._iteration = state["iteration"]
        self._start = state["start"]
        self._round = [Candidate(tuple(plan), group) for plan, group in state["round"]]
        self._scores = dict(state["scores"])
        self._done = state["done"]
