"""AMC: an agent walks the channel groups and decides how much of each is kept.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018,
arXiv:1802.03494. To be read beside its section 3:

    state s_t                                `features.States`, equation 1
    actor, critic, targets                   `ddpg.DDPG`, section 3.2
    a_t ~ TN(mu(s_t), sigma^2, 0, 1)         `Amc._action`, equation 2
    Algorithm 1, the bounds of a_t           `Amc._walk`
    y = r - b + gamma * Q(s', mu(s'))        `Amc._learn`, equation 4
    the reward, given to every step          `rewards.reward`, section 3.3

An episode is a trial. Any number of episodes may be out at once: each is walked by the actor as it
is, and learning is from whatever has returned, so the search depends on the number of episodes out
and on the order in which they return. The winner is the trial of the highest reward.

Deviations from the paper (P) and from its reference code (R):

1. P, R: A step decides on a channel group, by the true cost of the whole plan: all later groups
   sit at their lower bounds, and the action is clipped to the widest width with which the plan is
   within every limit. The paper has the chain's formula for one limit.
2. R: Actions are rounded to allowed widths before they are clipped, so that rounding never ends
   above the budget and needs no repair. The replay holds what was executed: the plan itself, from
   which the states and actions of its walk follow.
3. P, R: With the reward `score`, what an episode leaves under the budget is used up: all groups
   grow by one common factor, then one after the other in random order. A wider network is hardly
   ever worse. The other rewards pay for a low cost themselves, and nothing is filled up.
4. P, R: The lower bound of the keep ratio is lowered for a group where half of its width in the
   uniform plan is less, so that any reachable budget is met with room to choose.
5. P, R: Every action of the warm-up drawn by itself, early groups take the budget and later ones
   starve. So its episodes are plans of the control `random`, above the lower bounds; narrowed by
   a common random factor for rewards that do not fill up the budget. With the reward
   `score` the first of them is the uniform plan, to which the search therefore never loses.
6. P, R: The warm-up is a quarter of the trials, 100 of 400 as in the paper, if not given.
7. P, R: Rewards are divided by their standard deviation over the replay and by the number of
   steps. The discount is 1 and each step of an episode has the episode's reward, so values add up
   to the number of steps times the reward. The moving average of the batches (b, weight 0.5) is
   subtracted after that.
8. P, R: Learning begins with the first outcome, not after the warm-up: one update for each step of
   every episode that returns, and at least 32. The replay holds all episodes, not the last 100.
9. P, R: Exploration shrinks by a constant factor a trial, from `sigma` to 0.05 at the last trial,
   whatever their number; in the reference code it is dead after 80 episodes. `sigma` is 0.2, not
   0.5: wide noise ends in plans whose early groups take the budget, and the warm-up has explored.
10. P, R: The normal is truncated to [lower bound, 1] instead of [0, 1].
11. P, R: A walk that ends in a plan that was tried is walked again with 1.5 times the noise, up
   to 4 times: scores do not change, so trying it again would teach nothing.
12. P, R: States also hold the group's index one-hot, and what attention needs (`features`).
13. P, R: The last layers begin small (Lillicrap et al. 2016), and the actor at the mean keep ratio
   of the uniform plan for every state.
14. P, R: Hidden layers are 128 wide, not 300: no worse on problems of 8 groups, at a quarter of the
   time, and the stored state, written after every trial, stays below 2 MB (`hidden`).
15. P, R: A failed trial is not learnt from.
16. R: The cost "still to come" of the first state is in the unit of all others; every group is
   walked, the last of a network included.
17. P, R: With `evaluation.racing` and a reward other than `guaranteed`, a trial that is clearly
   below the best reward so far is learnt from by its estimated score; the winner's is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from search.space import Plan
from search.strategies.base import Outcome, Problem, Proposal
from search.strategies.ddpg import DDPG, Batch, decode, encode
from search.strategies.features import States
from search.strategies.fitting import Choices, fit, uniform_plan, widen, widest
from search.strategies.ledger import Leader, Ledger
from search.strategies.random import random_plan
from search.strategies.rewards import reward, score_for
from search.strategy_specs import AmcSpec

_LAST_SIGMA = 0.05
_BATCH = 64
_FEWEST_UPDATES = 32
_ATTEMPTS = 4
_WEIGHTS, _WALK, _LEARN = range(3)  # streams of the seed


def lower_bounds(problem: Problem, ratio: float, uniform: Plan) -> Plan:
    """The narrowest width of each group that is not below the ratio; always within the budget.

    Args:
        uniform: the plan of one keep ratio; half of its widths are bounds too, see 4 above.
    """
    return tuple(
        next(width for width in options if width >= min(ratio * options[-1], middle / 2))
        for options, middle in zip(problem.choices, uniform, strict=True)
    )


class Amc:
    """Walks the groups once an episode, and learns from the rewards."""

    def __init__(self, config: AmcSpec, problem: Problem) -> None:
        self._config = config
        self._problem = problem
        self._ledger = Ledger(config.name)
        self._leader = Leader()
        self._uniform = uniform_plan(problem.cost, problem.budget, problem.choices)
        self._floor = lower_bounds(problem, config.lower_bound, self._uniform)
        self._choices: Choices = tuple(
            tuple(width for width in options if width >= least)
            for options, least in zip(problem.choices, self._floor, strict=True)
        )
        self._fills = config.reward.kind == "score"
        fits = problem.budget.admits(problem.cost.of(problem.full))
        settled = all(len(options) == 1 for options in self._choices) or (self._fills and fits)
        self._trials = 1 if settled else config.trials  # where there is but one plan to propose

        full = np.array(problem.full, dtype=np.int64)
        self._states = States(problem, self._floor)
        self._agent = DDPG(self._states.count, config.hidden, self._random(_WEIGHTS, 0))
        if len(full):
            self._agent.start_at(float(np.clip(np.mean(self._uniform / full), 0.05, 0.95)))
        self._full = full
        self._plans: list[Plan] = []  # the replay, in the order in which episodes returned
        self._rewards: list[float] = []  # not a number if the trial failed

    @property
    def done(self) -> bool:
        return self._ledger.next_number == self._trials and not self._ledger.outstanding

    @property
    def fraction(self) -> float:
        return len(self._plans) / self._trials

    @property
    def best(self) -> int | None:
        return self._leader.number

    @property
    def needed(self) -> frozenset[int]:
        return frozenset()  # untuned: the plan is enough to make it again

    def ask(self, n: int, /) -> Sequence[Proposal]:
        count = min(max(n, 0), self._trials - self._ledger.next_number)
        tried = {*self._plans, *self._ledger.outstanding.values()} if count else set()
        proposals = []
        for _ in range(count):
            plan = self._episode(self._ledger.next_number, tried)
            tried.add(plan)
            proposals.append(self._ledger.issue(plan, floor=self._score_to_beat(plan)))
        return proposals

    def _score_to_beat(self, plan: Plan) -> float | None:
        lead = self._leader.floor
        if lead is None:
            return None
        return score_for(self._config.reward, self._problem, plan, lead)

    def tell(self, outcome: Outcome, /) -> None:
        score = self._ledger.settle(outcome)
        gained = None
        if score is not None:
            gained = reward(self._config.reward, self._problem, outcome, score)
            self._leader.offer(outcome.number, gained)
        self._plans.append(tuple(outcome.plan))
        self._rewards.append(np.nan if gained is None else gained)
        if gained is not None and len(self._full):
            self._learn()

    def _random(self, stream: int, number: int) -> np.random.Generator:
        """Nothing of a generator has to be stored: each episode has its own, by its number."""
        return np.random.default_rng([self._problem.seed, stream, number])

    def _episode(self, number: int, tried: set[Plan]) -> Plan:
        """A plan within the budget, if possible one that was not tried."""
        if self._fills and number == 0:
            return self._filled(self._uniform, range(len(self._full)))
        random = self._random(_WALK, number)
        warmup, trials = self._config.warmup_trials, self._trials
        past = (number - warmup) / max(trials - warmup, 1)
        sigma = self._config.sigma * (_LAST_SIGMA / self._config.sigma) ** max(past, 0)
        for attempt in range(_ATTEMPTS):
            if number < warmup:
                plan = self._random_episode(number + attempt * trials, random)
            else:
                plan = self._walk(sigma * 1.5**attempt, random)
            if plan not in tried:
                break
        return plan

    def _random_episode(self, number: int, random: np.random.Generator) -> Plan:
        plan = random_plan(replace(self._problem, choices=tuple(map(tuple, self._choices))), number)
        if self._fills:
            return plan
        factor = random.random()
        return tuple(
            max(w for w in options if w <= max(factor * width, options[0]))
            for options, width in zip(self._choices, plan, strict=True)
        )

    def _walk(self, sigma: float, random: np.random.Generator) -> Plan:
        plan = self._floor
        for group, options in enumerate(self._choices):
            action = self._action(group, plan, sigma, random)
            wanted = min(options, key=lambda width: abs(width - action))
            options = [width for width in options if width <= wanted]
            width = widest(self._problem.cost, self._problem.budget, plan, group, options)
            if width is not None:  # the lower bounds are within the budget: there is always one
                plan = (*plan[:group], width, *plan[group + 1 :])
        if not self._fills:
            return plan
        return self._filled(plan, random.permutation(len(plan)).tolist())

    def _action(self, group: int, plan: Plan, sigma: float, random: np.random.Generator) -> float:
        """A width, not yet rounded: the actor's keep ratio with truncated normal noise."""
        state = self._states.of(np.array([plan]), np.array([group]))[0]
        full = self._full[group]
        ratio = truncated_normal(
            self._agent.act(state), sigma, self._floor[group] / full, 1.0, random
        )
        return float(ratio * full)

    def _filled(self, plan: Plan, order: Sequence[int]) -> Plan:
        """The slack under the budget used up; no group of the result can be widened."""
        cost, budget = self._problem.cost, self._problem.budget
        wider = [
            [width for width in options if width >= least]
            for options, least in zip(self._choices, plan, strict=True)
        ]
        plan = fit(cost, budget, wider, (np.array(plan) / self._full).tolist())
        return widen(cost, budget, self._choices, plan, order)

    def _learn(self) -> None:
        """One update for each step of an episode, on steps of any episodes."""
        random, steps = self._random(_LEARN, len(self._plans)), len(self._full)
        rewards = np.array(self._rewards)
        plans = np.array(self._plans, dtype=np.int64)[np.isfinite(rewards)]
        rewards = rewards[np.isfinite(rewards)]
        deviation = rewards.std()
        rewards = rewards / (steps * (deviation if deviation > 0 else 1.0))
        count = max(steps, _FEWEST_UPDATES) * _BATCH
        episode, group = random.integers(len(plans), size=count), random.integers(steps, size=count)
        plan, last = plans[episode], group == steps - 1
        state = self._states.of(plan, group)
        next_state = self._states.of(plan, np.where(last, group, group + 1))
        action = plan[np.arange(count), group] / self._full[group]
        for start in range(0, count, _BATCH):
            rows = slice(start, start + _BATCH)
            columns = (action[rows], rewards[episode[rows]], last[rows])
            a, r, end = (column.astype(np.float32)[:, None] for column in columns)
            self._agent.learn(Batch(state[rows], a, r, next_state[rows], end))

    def state_dict(self) -> dict[str, Any]:
        return {
            "ledger": self._ledger.state_dict(),
            "leader": self._leader.state_dict(),
            "agent": self._agent.state_dict(),
            "plans": encode(np.array(self._plans), "<u4"),
            "rewards": encode(np.array(self._rewards), "<f8"),
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._ledger.load_state_dict(state["ledger"])
        self._leader.load_state_dict(state["leader"])
        self._agent.load_state_dict(state["agent"])
        self._rewards = decode(state["rewards"], "<f8").tolist()
        plans = decode(state["plans"], "<u4").reshape(len(self._rewards), len(self._full))
        self._plans = [tuple(plan) for plan in plans.tolist()]


def truncated_normal(
    mean: float, sigma: float, low: float, high: float, random: np.random.Generator
) -> float:
    """A draw from the normal distribution within [low, high]; the mean is moved there first."""
    mean = min(max(mean, low), high)
    normal = NormalDist()
    below, above = normal.cdf((low - mean) / sigma), normal.cdf((high - mean) / sigma)
    level = below + (above - below) * random.random()
    draw = mean + sigma * normal.inv_cdf(min(max(level, 1e-12), 1 - 1e-12))
    return min(max(draw, low), high)
