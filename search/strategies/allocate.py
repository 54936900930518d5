"""Our own search: what each group loses at each width, allocated exactly, solved in sequence.

    levels      what each group loses at each width, one trial a group     `search.levels`
    drafts      exact plans for weighted losses, a small search over the weights
    finalists   the best drafts, solved anew with all that is known
    points      the best weights at larger budgets: the whole curve from one table

SPDY (Frantar and Alistarh, ICML 2022, arXiv:2201.13096) gave the scheme: errors of single layers,
an exact allocation (`search.allocation`), a search over coefficients around it. What differs:

1. The loss of a group's widths is the divergence that its cut alone causes in the network's
   outputs, measured at a few widths; in between it follows the least-squares error
   (`search.levels`). SPDY guesses it from the layer's place and sparsity alone.
2. The coefficients are three, not one a layer, so that two dozen trials do: with `l` the measured
   loss of a group at depth `d`, -1/2 for the first to 1/2 for the last,

       weighted loss = l^power * exp(slope * d + coupling * [several layers read the group])

   (`weighted`). `power` is how losses grow together, `slope` that what early layers lose later
   ones make good, and `coupling` that a residual stream's channels are missed everywhere. A factor
   for each group was tried: moving them at random made plans worse (ResNet-20).
3. A draft is solved layer after layer on its own inputs. Solved for one by one on the original's
   inputs, plans rank otherwise: what later layers make good is not seen.
4. The search goes in rounds: the first of them spreads around weights that were good on other
   networks (`PRIOR`, which is the first trial), the next ones around the best so far. A round waits
   for the one before, so the search is the same for any number of slots and any order. Where the
   allowed widths are few, near weights lead to plans that are known: then the spread widens.

Drafts and finalists are compared by the divergence, which is smoother than accuracy and does not
saturate where the network was trained on the hold-out; by the score where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.cost import Budget
from search.levels import anchors
from search.space import Plan
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.ledger import Ledger
from search.strategies.weighted import Weighted, Weights
from search.strategy_specs import AllocateSpec

PRIOR = (0.0, 0.4, 1.1)
"""`log(power)`, `slope` and `coupling` of the first trial."""

_SPREAD = (0.3, 1.0, 0.7)  # standard deviations of the first round
_ROUNDS = (0.5, 0.75, 1.0)  # shares of the trials after each round
_NARROWER = 0.4  # the spread of each round, as a share of the one before
_DRAWS = 40  # weights that are drawn until their plan is a new one
_WIDEN_AFTER = 4  # draws in vain, after which the spread doubles
_WIDEST = 4.0  # times the first round's spread


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan to try, and the weights that it is exact for."""

    number: int
    plan: Plan
    weights: Weights


class Allocate:
    """See the module.

    Attributes:
        points: numbers of the trials at larger budgets, the smallest budget first.
    """

    def __init__(self, config: AllocateSpec, problem: Problem) -> None:
        self._config, self._problem = config, problem
        self._ledger = Ledger(config.name)
        self._weighted = Weighted(problem)
        groups = len(problem.choices)
        self._losses: dict[int, tuple[float, ...] | None] = (
            {} if problem.levels is None else dict(enumerate(problem.levels))
        )
        self._first = groups if problem.levels is None else 0  # number of the first draft
        self._planned: list[Draft] = []  # of the rounds so far, in their order
        self._merits: dict[int, float | None] = {}
        self._exhausted = False  # no further plan is new
        self._finals: dict[int, Plan] | None = None  # finalists, then points
        self._scores: dict[int, float | None] = {}  # merits of finalists and points
        self.points: tuple[int, ...] = ()

    # --- the protocol ---------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self._finals is not None and len(self._scores) == len(self._finals)

    @property
    def fraction(self) -> float:
        if self.done:
            return 1.0
        settled = self._ledger.next_number - len(self._ledger.outstanding)
        most = self._first + self._config.trials + self._config.finalists + self._config.points
        return settled / (most + 1)

    @property
    def best(self) -> int | None:
        scores = {
            number: score
            for number, score in self._scores.items()
            if score is not None and number not in self.points
        }
        if scores:
            return max(scores, key=lambda number: (scores[number], -number))
        ranked = self._ranked()
        return ranked[0].number if ranked else None

    @property
    def needed(self) -> frozenset[int]:
        handed_out = self._ledger.next_number
        return frozenset(number for number in self._finals or () if number < handed_out)

    def ask(self, n: int, /) -> Sequence[Proposal]:
        self._go_on()
        proposals: list[Proposal] = []
        while len(proposals) < n:
            proposal = self._next()
            if proposal is None:
                break
            proposals.append(proposal)
        return proposals

    def tell(self, outcome: Outcome, /) -> None:
        score = self._ledger.settle(outcome)
        number = outcome.number
        if number < self._first:
            self._losses[number] = None if score is None else outcome.losses
        elif self._finals is not None and number in self._finals:
            self._scores[number] = _merit(outcome, score)
        else:
            self._merits[number] = _merit(outcome, score)
        self._go_on()

    def state_dict(self) -> dict[str, Any]:
        return {
            "ledger": self._ledger.state_dict(),
            "losses": [[group, losses] for group, losses in self._losses.items()],
            "planned": [
                [
                    draft.number,
                    draft.plan,
                    [draft.weights.log_power, draft.weights.slope, draft.weights.coupling],
                ]
                for draft in self._planned
            ],
            "merits": [[number, merit] for number, merit in self._merits.items()],
            "exhausted": self._exhausted,
            "finals": None if self._finals is None else [[n, p] for n, p in self._finals.items()],
            "scores": [[number, score] for number, score in self._scores.items()],
            "points": list(self.points),
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._losses = {
            group: None if losses is None else tuple(losses) for group, losses in state["losses"]
        }
        self._planned = [
            Draft(number, tuple(plan), Weights(*weights))
            for number, plan, weights in state["planned"]
        ]
        self._merits = dict(state["merits"])
        self._exhausted = state["exhausted"]
        finals = state["finals"]
        self._finals = None if finals is None else {n: tuple(plan) for n, plan in finals}
        self._scores = dict(state["scores"])
        self.points = tuple(state["points"])

    # --- what comes next ------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Plan the next round, or the end, when all that was planned is told."""
        told = len(self._merits) == len(self._planned)
        if self._finals is not None or len(self._losses) < len(self._problem.choices) or not told:
            return
        made = len(self._planned)
        self._plan_round()
        if len(self._planned) == made:
            self._plan_finals(self._first + made)

    def _next(self) -> Proposal | None:
        """What was planned and is not handed out yet."""
        number = self._ledger.next_number
        if number < self._first:
            return self._level(number)
        if number < self._first + len(self._planned):
            draft = self._planned[number - self._first]
            return self._ledger.issue(draft.plan, solve="draft", tags=_tags(draft.weights))
        if self._finals is None or number not in self._finals:
            return None
        tags = {"final": 1}
        if number in self.points:
            tags = {"point": self.points.index(number) + 1}
        return self._ledger.issue(self._finals[number], solve="full", tags=tags)

    def _level(self, group: int) -> Proposal:
        full, options = self._problem.full, self._problem.choices[group]
        narrowest = (anchors(options) or options)[-1]
        plan = (*full[:group], narrowest, *full[group + 1 :])
        return self._ledger.issue(plan, levels_of=group, tags={"group": group})

    def _plan_round(self) -> None:
        """Draw the drafts of the next round; none if all are made."""
        made, trials = len(self._planned), self._config.trials
        if self._exhausted or made >= trials:
            return
        stops = [max(1, math.ceil(share * trials)) for share in _ROUNDS]
        turn = next(i for i, stop in enumerate(stops) if made < stop)
        generator = np.random.default_rng([self._problem.seed, turn])
        ranked = self._ranked()
        centre = ranked[0].weights if ranked else Weights(*PRIOR)
        spread = np.array(_SPREAD) * _NARROWER**turn
        known = {draft.plan for draft in self._planned}
        for _ in range(stops[turn] - made):
            for attempt in range(_DRAWS):
                weights = centre
                if self._planned or attempt:
                    wider = spread * 2.0 ** (attempt // _WIDEN_AFTER)  # few widths, few plans
                    wider = np.minimum(wider, _WIDEST * np.array(_SPREAD))
                    moved = wider * generator.standard_normal(len(spread))
                    weights = Weights(
                        centre.log_power + float(moved[0]),
                        centre.slope + float(moved[1]),
                        centre.coupling + float(moved[2]),
                    )
                if self._drawn(weights, rough=True) in known:
                    continue
                plan = self._drawn(weights)
                if plan not in known:
                    break
            else:
                self._exhausted = True
                return
            known.add(plan)
            self._planned.append(Draft(self._first + len(self._planned), plan, weights))

    def _drawn(self, weights: Weights, *, rough: bool = False) -> Plan:
        return self._weighted.plan(self._losses, weights, self._budget(0), rough=rough)

    def _plan_finals(self, number: int) -> None:
        """Finalists, and points with the best one's weights, numbered from `number`."""
        ranked = self._ranked()
        plans = [draft.plan for draft in ranked[: self._config.finalists]]
        count = len(plans)
        if ranked:
            seen = {plans[0], self._problem.full}
            for step in range(1, self._config.points + 1):
                plan = self._weighted.plan(self._losses, ranked[0].weights, self._budget(step))
                if plan not in seen:
                    seen.add(plan)
                    plans.append(plan)
        self._finals = {number + place: plan for place, plan in enumerate(plans)}
        self.points = tuple(range(number + count, number + len(plans)))

    def _ranked(self) -> list[Draft]:
        """The drafts that succeeded, the best first."""
        found = []
        for draft in self._planned:
            merit = self._merits.get(draft.number)
            if merit is not None:
                found.append((-merit, draft.number, draft))
        return [draft for _, _, draft in sorted(found, key=lambda item: item[:2])]

    def _budget(self, point: int) -> Budget:
        """Evenly spaced in every limited cost between the limit and the original's."""
        share = point / (self._config.points + 1)
        full = self._problem.cost.of(self._problem.full)
        return Budget(
            {
                name: limit + max(0, math.floor(share * (full[name] - limit)))
                for name, limit in self._problem.budget.limits.items()
            }
        )


def _merit(outcome: Outcome, score: float | None) -> float | None:
    """Higher is better; `None` if the trial failed."""
    divergence = outcome.metrics.get("kl", math.nan)
    return -divergence if score is not None and math.isfinite(divergence) else score


def _tags(weights: Weights) -> dict[str, float]:
    """What the weights were, for the reader of the history."""
    return {
        "power": round(math.exp(weights.log_power), 4),
        "slope": round(weights.slope, 4),
        "coupling": round(weights.coupling, 4),
    }
