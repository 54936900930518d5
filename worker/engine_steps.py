"""The steps that a child runs: `search.engine`'s, between JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import TypeAdapter

from models.settings import Settings
from search import engine
from search.records import Inputs, LossCurves, Prepared, Trial, TrialResult
from search.strategies.base import Outcome, Proposal
from worker.child import Context, Step

Values = Mapping[str, Any]

_PROPOSAL = TypeAdapter(Proposal)
_OUTCOMES = TypeAdapter(tuple[Outcome, ...])


def load(settings: Settings) -> dict[str, Step]:
    """The steps by name, with torch held to its number of threads."""
    torch.set_num_threads(settings.torch_threads)
    return {
        "prepare": _prepare,
        "advance": _advance,
        "evaluate": _evaluate,
        "tune": _tune,
        "finalize": _finalize,
    }


def _prepared(values: Values) -> Prepared:
    # A score that is not a number is stored as null.
    score = math.nan if values["score"] is None else values["score"]
    return Prepared.from_json({**values, "score": score})


def _prepare(given: Values, context: Context) -> Values:
    known = [LossCurves.from_json(curves) for curves in given["curves"]]
    inputs, seconds = Inputs.from_json(given["inputs"]), given["seconds"]
    return engine.prepare(inputs, context.files, known, seconds).to_json()


def _advance(given: Values, _context: Context) -> Values:
    return engine.advance(
        Inputs.from_json(given["inputs"]),
        _prepared(given["prepared"]),
        given["state"],
        _OUTCOMES.validate_python(given["outcomes"]),
        given["slots"],
    ).to_json()


def _evaluate(given: Values, context: Context) -> Values:
    parent = given["parent"]
    return engine.evaluate(
        Inputs.from_json(given["inputs"]),
        _prepared(given["prepared"]),
        _PROPOSAL.validate_python(given["proposal"]),
        None if parent is None else TrialResult.from_json(parent),
        context.files,
    ).to_json()


def _tune(given: Values, context: Context) -> Values:
    return engine.tune(
        Inputs.from_json(given["inputs"]),
        _prepared(given["prepared"]),
        TrialResult.from_json(given["winner"]),
        given["checkpoint"],
        context.files,
        max_seconds=given["max_seconds"],
        should_stop=context.should_stop,
        progress=context.progress,
    ).to_json()


def _finalize(given: Values, context: Context) -> Values:
    return engine.finalize(
        Inputs.from_json(given["inputs"]),
        _prepared(given["prepared"]),
        TrialResult.from_json(given["winner"]),
        given["checkpoint"],
        [Trial.from_json(trial) for trial in given["trials"]],
        context.files,
        context.progress,
    ).to_json()
