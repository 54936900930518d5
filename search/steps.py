"""What each step of a job does, see `search.engine`."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from espalier.format.codec import graph_to_json
from search.context import Context, Problem, context_of, problem_of
from search.cost import Budget, Choices, check_reachable, choices_of, smallest_cost
from search.evaluation import checkpoint as checkpoints
from search.evaluation.evaluator import Start
from search.evaluation.finetune import FineTuner
from search.evaluation.leveling import level
from search.evaluation.metrics import finite
from search.evaluation.plausibility import check_answers, check_scores, check_splits
from search.evaluation.seeds import derive, generator
from search.fast_widths import check_widths, fast_widths
from search.files import Files
from search.records import (
    Advanced,
    Artifact,
    Finished,
    Group,
    Inputs,
    LossCurves,
    Prepared,
    Trial,
    TrialResult,
    Tuned,
)
from search.space import Plan
from search.spec import JobSpec
from search.strategies import create
from search.strategies.base import Outcome, Proposal, Solve
from search.strategies.fitting import uniform_plan

Progress = Callable[[str, float, dict[str, Any]], None]
"""Takes the stage, how much of it is done from 0 to 1, and facts about it."""

_TRIAL, _CRITERION, _FINETUNE = 1, 2, 3  # streams of the specification's seed; 0 is the splits'
_REPORT_EVERY_S = 1.0


def silent(stage: str, fraction: float, facts: dict[str, Any]) -> None:
    """Progress that nobody follows."""


def prepare(
    inputs: Inputs,
    files: Files,
    known: Sequence[LossCurves] = (),
    seconds: Mapping[str, float] = MappingProxyType({}),
) -> Prepared:
    """Find what can be pruned, see that the budget can be met, and measure the original.

    Args:
        known: loss curves of earlier jobs that agree with this one in network, data and
            `JobSpec.levels`; those that were measured under the same allowed widths are taken over.
        seconds: of one pass on the job's target, by chain of layers, as earlier jobs have measured
            them.

    Raises:
        FormatError: the network's package is malformed.
        UnreachableBudget: even the narrowest plan exceeds the budget; found before data is read.
        UnsoundTorch: the job trains, and torch computes wrong gradients on this machine.
        DatasetError: the data is malformed, does not fit the network, or is too little.
        BaselineAtChance: the original is no better than the most frequent class.
        RuntimeMissing: widths shall be fast on a target that this machine does not offer.
    """
    context = context_of(inputs, files)
    problem, spec = context.problem, inputs.spec
    budget, choices = problem.budget(spec), problem.choices(spec)
    check_reachable(problem.cost, budget, choices)
    if spec.trains:
        context.require_training()
    evaluator = context.evaluator
    baseline = evaluator.baseline()
    warnings = check_splits(context.dataset, evaluator.splits)
    answers = evaluator.answers()
    if answers is not None:
        warnings += check_answers(answers, allow_chance=spec.allows_chance)
    staircase = None
    if spec.rounding.multiple == "auto":
        choices, staircase = fast_widths(problem, spec, seconds)
        warnings += check_widths(staircase)
    if spec.skips_heads and evaluator.scores.kind is None:
        warnings += check_scores(evaluator.reference("holdout").cpu().numpy())
    return Prepared(
        baseline=finite(baseline),
        score=cast(float, evaluator.score(baseline)),  # a number, or there were no baseline
        cost=dict(problem.cost.full),
        limits=dict(budget.limits),
        smallest=smallest_cost(problem.cost, choices),
        groups=tuple(Group(group.name, group.channels) for group in problem.space.groups),
        excluded=problem.space.excluded,
        graph=graph_to_json(problem.space.graph),
        choices=choices,
        staircase=staircase,
        levels=_taken_over(known, choices, problem, spec),
        warnings=tuple(warnings),
    )


def _taken_over(
    known: Sequence[LossCurves], choices: Choices, problem: Problem, spec: JobSpec
) -> tuple[tuple[float, ...], ...] | None:
    """The first losses that were measured under the same allowed widths."""
    for curves in known:
        measured_under = curves.choices
        if measured_under is None:
            measured_under = choices_of(problem.space, curves.rounding, spec.version)
        if measured_under == choices:
            return curves.losses
    return None


def _choices(problem: Problem, spec: JobSpec, prepared: Prepared) -> Choices:
    """The widths that each group may keep, as `prepare` decided."""
    return problem.choices(spec) if prepared.choices is None else prepared.choices


def advance(
    inputs: Inputs,
    prepared: Prepared,
    state: dict[str, Any] | None,
    outcomes: Sequence[Outcome],
    slots: int,
) -> Advanced:
    """Tell the strategy what became of its proposals, and ask for new ones.

    Args:
        state: from the last `advance`; `None` at the start.
        outcomes: those that no `advance` has seen.
        slots: how many new proposals can be taken.
    """
    spec = inputs.spec
    problem = problem_of(prepared.graph)
    strategy = create(
        spec.strategy,
        problem.cost,
        Budget(prepared.limits),
        _choices(problem, spec, prepared),
        spec.seed,
        baseline=prepared.score,
        levels=prepared.levels,
    )
    if state is not None:
        strategy.load_state_dict(state)
    for outcome in outcomes:
        strategy.tell(outcome)
    proposals = tuple(strategy.ask(slots))
    return Advanced(
        state=strategy.state_dict(),
        proposals=proposals,
        done=strategy.done,
        fraction=strategy.fraction,
        best=strategy.best,
        needed=tuple(sorted(strategy.needed)),
    )


def evaluate(
    inputs: Inputs,
    prepared: Prepared,
    proposal: Proposal,
    parent: TrialResult | None,
    files: Files,
) -> TrialResult:
    """Cut, tune and score one trial.

    The kept channels are a subset of the parent's. They are ranked by the parent's weights if it
    was tuned, else by the original's. A function of its arguments alone: neither the order of
    trials nor the number of slots matters.

    Args:
        parent: the result of trial `proposal.parent`.

    Raises:
        ValueError: the parent is not the one proposed.
    """
    if proposal.parent != (None if parent is None else parent.outcome.number):
        raise ValueError(f"trial {proposal.number} starts from trial {proposal.parent}")
    context = context_of(inputs, files)
    if proposal.tuning_steps:  # perhaps on another machine than `prepare`
        context.require_training()
    evaluator, spec = context.evaluator, inputs.spec
    random = generator(spec.seed, _CRITERION, proposal.number)
    start, losses = _start(parent, files), None
    if proposal.levels_of is not None:
        options = _choices(context.problem, spec, prepared)[proposal.levels_of]
        found, losses = level(evaluator, proposal.levels_of, options, random)
    else:
        within = None if parent is None else parent.kept
        found = evaluator.evaluate(
            evaluator.choose(proposal.plan, random, start, within),
            start=start,
            tuning_steps=proposal.tuning_steps,
            seed=derive(spec.seed, _TRIAL, proposal.number),
            floor=proposal.floor,
            solve=proposal.solve,
        )
    outcome = Outcome(
        proposal.number,
        proposal.plan,
        found.score,
        dict(found.metrics),
        context.problem.cost.of(proposal.plan),
        losses,
    )
    weights = None
    if found.state:
        with tempfile.TemporaryDirectory() as folder:
            path = checkpoints.save(Path(folder) / "weights.safetensors", found.state, {})
            weights = files.put(path)
    return TrialResult(outcome, found.kept, weights, proposal.solve)


def _start(result: TrialResult | None, files: Files) -> Start | None:
    """What a tuned trial left to go on from."""
    if result is None or result.weights is None:
        return None
    return result.kept, checkpoints.restore(files.path(result.weights))[0]


def tuner_of(
    context: Context, winner: TrialResult, checkpoint: str | None, files: Files
) -> FineTuner:
    """The winner's fine-tuning as a checkpoint left it; as the trial was scored if `None`."""
    evaluator = context.evaluator
    network = evaluator.network(winner.kept, _start(winner, files), winner.solve)
    inputs = context.inputs
    job = inputs.to_json() | {"spec": inputs.spec.identity()}
    subject = json.dumps([job, winner.kept, winner.weights])
    tuner = FineTuner(
        network,
        evaluator,
        seed=derive(inputs.spec.seed, _FINETUNE),
        subject=hashlib.sha256(subject.encode()).hexdigest(),
    )
    if checkpoint is not None:
        tuner.restore(files.path(checkpoint))
    return tuner


def tune(
    inputs: Inputs,
    prepared: Prepared,  # noqa: ARG001 - every step takes what is known
    winner: TrialResult,
    checkpoint: str | None,
    files: Files,
    *,
    max_seconds: float = math.inf,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Tuned:
    """Fine-tune the winner for a while; the result does not depend on how often it is interrupted.

    Args:
        checkpoint: from the last slice; `None` at the start.
        max_seconds: returns after the gradient step that passes this.
        should_stop: asked after each gradient step.
    """
    context = context_of(inputs, files)
    if inputs.spec.finetune.epochs:
        context.require_training()
    tuner = tuner_of(context, winner, checkpoint, files)
    reported = 0.0

    def stop() -> bool:
        nonlocal reported
        if time.monotonic() - reported >= _REPORT_EVERY_S:
            reported = time.monotonic()
            progress("tune", tuner.fraction, {"step": tuner.step, "steps": tuner.total})
        return should_stop()

    done = tuner.run(max_seconds, stop)
    with tempfile.TemporaryDirectory() as folder:
        digest = files.put(tuner.save(Path(folder) / "checkpoint.safetensors"))
    progress("tune", tuner.fraction, {"step": tuner.step, "steps": tuner.total})
    return Tuned(done, digest, tuner.history)


def finalize(
    inputs: Inputs,
    prepared: Prepared,
    winner: TrialResult,
    checkpoint: str | None,
    trials: Sequence[Trial],
    files: Files,
    progress: Progress = silent,
) -> Finished:
    """Write the files of the result and see in a fresh process that they are what they should be.

    Args:
        checkpoint: of the last slice of fine-tuning; `None` for the winner as it was scored.
        trials: the history, in any order.

    Raises:
        OnnxExportFailed: ONNX cannot carry the network, or computes something else.
        VerificationFailed: what was reloaded differs from what was in memory, or from the plan.
    """
    # ONNX and the plots take a second to import, and the other steps need neither.
    from search.export import Control, Result, write_results

    context = context_of(inputs, files)
    evaluator = context.evaluator
    tuner = tuner_of(context, winner, checkpoint, files)
    number = winner.outcome.number
    solved = any(t.proposal.solve for t in trials if t.proposal.number == number)
    choices = _choices(context.problem, inputs.spec, prepared)
    budget = Budget(prepared.limits)
    plan, cost, metrics = _uniform(context, budget, choices, "full" if solved else None)
    result = Result(
        evaluator=evaluator,
        network=evaluator.scores.whole(tuner.network(), winner.kept),
        kept=winner.kept,
        winner=number,
        choices=choices,
        limits=prepared.limits,
        before=prepared.cost,
        after=context.problem.cost.of(tuple(map(len, winner.kept))),
        trials=sorted(trials, key=lambda trial: trial.proposal.number),
        control=Control(plan, cost, metrics),
        history=tuner.history,
        levels=prepared.levels,
        warnings=prepared.warnings,
        staircase=prepared.staircase,
    )
    with tempfile.TemporaryDirectory() as folder:
        written = write_results(
            result,
            Path(folder),
            original=files.path(inputs.network),
            dataset=files.path(inputs.dataset),
            progress=lambda part, fraction: progress("finalize", fraction, {"part": part}),
        )
        artifacts = tuple(
            Artifact(file.name, files.put(file.path), file.path.stat().st_size, file.media_type)
            for file in written.files
        )
    return Finished(artifacts, written.summary, written.warnings)


def _uniform(
    context: Context, budget: Budget, choices: Choices, solve: Solve | None
) -> tuple[Plan, dict[str, int], Mapping[str, float]]:
    """The plain plan under the same budget, its channels chosen as the trials' are.

    Args:
        solve: as the winner's weights were solved for.
    Returns:
        Plan, cost, and metrics on the hold-out.
    """
    spec, problem, evaluator = context.inputs.spec, context.problem, context.evaluator
    plan = uniform_plan(problem.cost, budget, choices)
    random = generator(spec.seed, _CRITERION)
    found = evaluator.evaluate(evaluator.choose(plan, random), solve=solve)
    return plan, problem.cost.of(plan), found.metrics
