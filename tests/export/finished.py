"""A finished search over the digits, made once a process: what the exports begin from."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from search.cost import Budget, CostModel, choices_of
from search.evaluation.evaluator import Evaluator
from search.evaluation.finetune import FineTuner
from search.export import Control, Result, Written, write_results
from search.pruning import select
from search.records import Trial
from search.space import Plan
from search.strategies.base import Outcome, Proposal
from tests.evaluation.digits import digits, evaluator, job


def _outcome(made: Evaluator, cost: CostModel, number: int, plan: Plan, **given: Any) -> Outcome:
    kept = select(made.original, made.space, plan, "l1", torch.Generator())
    found = made.evaluate(kept, **given)
    return Outcome(number, plan, found.score, found.metrics, cost.of(plan))


def _plans(made: Evaluator) -> list[Plan]:
    """A walk from the full width down to below half of the costs, a group at a time."""
    plan, plans = list(made.space.full), []
    for step in range(12):
        group = step % len(plan)
        plan[group] = max(2, plan[group] - 2)
        plans.append(tuple(plan))
    return plans


@functools.cache
def finished() -> Result:
    """A hand-made history, and its best admissible trial fine-tuned."""
    made = evaluator(job())
    cost = CostModel(made.space)
    budget = Budget.resolve(made.spec.budget, cost.full)
    trials = []
    for number, plan in enumerate(_plans(made)):
        parent = None if number == 0 else number - 1
        proposal = Proposal(number, plan, parent, 0, {"iteration": number})
        trials.append(Trial(proposal, _outcome(made, cost, number, plan)))
    admitted = [trial for trial in trials if budget.admits(trial.outcome.cost)]
    winner = max(admitted, key=lambda trial: trial.outcome.score or 0.0)
    plan = winner.proposal.plan
    kept = select(made.original, made.space, plan, "l1", torch.Generator())
    network = made.network(kept)
    tuner = FineTuner(network, made, seed=0)
    tuner.run()
    assert tuner.network() is network
    choices = choices_of(made.space, made.spec.rounding, made.spec.version)
    uniform = tuple(max(options[0], options[-1] * 2 // 3) for options in choices)
    control = _outcome(made, cost, 0, uniform)
    return Result(
        evaluator=made,
        network=network,
        kept=kept,
        winner=winner.proposal.number,
        choices=choices,
        limits=budget.limits,
        before=cost.full,
        after=cost.of(plan),
        trials=trials,
        control=Control(uniform, control.cost, control.metrics),
        history=tuner.history,
    )


@functools.cache
def written() -> Written:
    """All files of `finished()`, verified."""
    folder = Path(tempfile.mkdtemp(prefix="results-"))
    return write_results(finished(), folder, original=digits().package, dataset=digits().data)


def changed(**fields: Any) -> Result:
    return dataclasses.replace(finished(), **fields)
