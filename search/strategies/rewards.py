"""What AMC's agent is rewarded with (He et al. 2018, arXiv:1802.03494, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from search.space import Plan
from search.strategies.base import Outcome, Problem
from search.strategy_specs import RewardSpec

_LEAST_ERROR = 1e-3


def reward(spec: RewardSpec, problem: Problem, outcome: Outcome, score: float) -> float:
    """The reward of an episode whose trial succeeded.

    With costs `c_i` of the plan, in the units of `Outcome.cost`, and the weights `w_i` asked for:

    - `score`: the score (the paper's `R_err = -error`, on any metric).
    - `guaranteed`: `-error * sum(w_i * log(c_i))`; with the weight 1 for MACs the paper's
      `R_FLOPs = -error * log(FLOPs)`, with parameters its `R_Param`.
    - `weighted`: `score - sum(w_i * log(c_i / C_i))`, `C_i` being the original's cost.

    The error is 1 - accuracy, and the accuracy is `top1` from the metrics; on data without labels
    it is `agreement` with the original network; if neither was measured, the score stands for it.
    An error below 0.001 counts as 0.001, or of two plans without an error the cheaper one would be
    worth no more. A cost that the outcome lacks is counted anew.
    """
    if spec.kind == "score":
        return score
    cost: Mapping[str, int] = {**problem.cost.of(outcome.plan), **outcome.cost}
    if spec.kind == "guaranteed":
        accuracy = outcome.metrics.get("top1", outcome.metrics.get("agreement", score))
        error = max(1 - accuracy, _LEAST_ERROR)
        return -error * sum(w * math.log(max(cost[name], 1)) for name, w in spec.weights.items())
    return score - _price(spec, problem, cost)


def score_for(spec: RewardSpec, problem: Problem, plan: Plan, gained: float) -> float | None:
    """The score with which a plan gains a reward.

    `None` for `guaranteed`, which is of an accuracy that the score need not be.
    """
    if spec.kind == "score":
        return gained
    if spec.kind == "guaranteed":
        return None
    return gained + _price(spec, problem, problem.cost.of(plan))


def _price(spec: RewardSpec, problem: Problem, cost: Mapping[str, int]) -> float:
    """What `weighted` takes off the score of a plan; negative below the original's cost."""
    original = problem.cost.of(problem.full)
    return sum(
        w * math.log(max(cost[name], 1) / max(original[name], 1))
        for name, w in spec.weights.items()
    )
