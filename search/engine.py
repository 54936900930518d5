"""The steps of a job, shared by the worker, the command line, benchmarks and tests.

    prepare -> advance <-> evaluate ... -> tune ... -> finalize

Every step is a function of plain records (`search.records`) and of files by their digest
(`search.files`), so that each can run in another process than the one before, and may run twice
with the same result. `run` goes through all of them in one process.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, TypeVar

from espalier.format.errors import EspalierError
from search.files import Files
from search.records import Finished, Inputs, Prepared, Record, Trial, TrialResult
from search.steps import Progress, advance, evaluate, finalize, prepare, silent, tune
from search.strategies.base import Outcome, Proposal

__all__ = [
    "Progress",
    "SearchFailed",
    "advance",
    "evaluate",
    "finalize",
    "find_winner",
    "prepare",
    "run",
    "tune",
]

R = TypeVar("R", bound=Record)


class SearchFailed(EspalierError):
    """A search of which no trial within the budget succeeded."""

    code = "search.failed"


def find_winner(
    inputs: Inputs,
    prepared: Prepared,
    files: Files,
    *,
    slots: int = 1,
    progress: Progress = silent,
) -> tuple[TrialResult, list[Trial]]:
    """`advance` and `evaluate` in this process until the search is over.

    Args:
        slots: how many trials are proposed ahead; the result is the same for any number.
    Returns:
        The winner, and all trials.

    Raises:
        SearchFailed: no trial within the budget succeeded.
    """
    state: dict[str, Any] | None = None
    outcomes: list[Outcome] = []
    running: list[Proposal] = []
    trials: list[Trial] = []
    results: dict[int, TrialResult] = {}
    while True:
        advanced = _again(advance(inputs, prepared, state, outcomes, slots - len(running)))
        state = advanced.state
        running += advanced.proposals
        facts = {"trials": len(trials), "best": advanced.best}
        progress("search", advanced.fraction, facts)
        if advanced.done:
            break
        proposal = running.pop(0)
        parent = None if proposal.parent is None else results[proposal.parent]
        result = _again(evaluate(inputs, prepared, proposal, parent, files))
        results[proposal.number] = result
        trials.append(Trial(proposal, result.outcome))
        outcomes = [result.outcome]
    if advanced.best is None:
        raise SearchFailed(
            f"none of {len(trials)} trials within the budget gave a finite score: raise the limits "
            "of the budget, or lower evaluation.tuning_rate"
        )
    return results[advanced.best], trials


def run(inputs: Inputs, files: Files, *, slots: int = 1, progress: Progress = silent) -> Finished:
    """All steps of a job in this process, each from nothing but what the one before left.

    Args:
        slots: as in `find_winner`.

    Raises:
        EspalierError: as the steps do.
    """
    began = time.monotonic()
    progress("prepare", 0.0, {})
    prepared = _again(prepare(inputs, files))
    winner, trials = find_winner(inputs, prepared, files, slots=slots, progress=progress)
    checkpoint: str | None = None
    while True:
        tuned = _again(
            tune(inputs, prepared, winner, checkpoint, files, max_seconds=60, progress=progress)
        )
        checkpoint = tuned.checkpoint
        if tuned.done:
            break
    finished = finalize(inputs, prepared, winner, checkpoint, trials, files, progress)
    summary = {**finished.summary, "seconds": round(time.monotonic() - began, 1)}
    return _again(replace(finished, summary=summary))


def _again(record: R) -> R:
    """The record as the next process would get it."""
    return type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
