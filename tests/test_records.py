"""Records survive JSON unchanged."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from espalier.targets import Device, Target
from search.cost.staircase import Stair
from search.records import (
    Advanced,
    Artifact,
    Finished,
    Group,
    Inputs,
    JobWarning,
    LossCurves,
    Prepared,
    Record,
    Staircase,
    Trial,
    TrialResult,
    Tuned,
)
from search.space import Exclusion
from search.spec import BudgetSpec, JobSpec, RoundingSpec
from search.strategies.base import Outcome, Proposal
from search.strategy_specs import RandomSpec

PROPOSAL = Proposal(3, (4, 5), 1, 10, {"iteration": 2, "share": 0.25, "name": "stem"})
OUTCOME = Outcome(3, (4, 5), None, {"top1": 0.1 + 0.2}, {"macs": 2**40 + 1})
SPEC = JobSpec(network="n", dataset="d", budget=BudgetSpec(macs="50%"), strategy=RandomSpec())

RECORDS: list[Record] = [
    Inputs(SPEC, "ab", "cd"),
    Prepared(
        {"top1": 1 / 3},
        -0.7,
        {"macs": 10},
        {"macs": 5},
        {"macs": 1},
        (Group("stem", 16),),
        (Exclusion("head", 10, "network output"),),
        "{}",
        ((4, 8, 16),),
        Staircase(
            Target("onnxruntime", "1.0", Device("host", "cpu", "model", "0123")),
            {"conv": 1.5e-5},
            1,
            (Stair("stem", (8, 16), ((1e-5, 2e-5), (2e-5, 3e-5))),),
            ("stem",),
            (),
        ),
        warnings=(JobWarning("data.odd", "odd"),),
    ),
    LossCurves(((0.5, 0.0),), None, RoundingSpec(multiple=4)),
    Advanced({"next": 1, "scores": [[1, 0.1]]}, (PROPOSAL,), False, 0.5, None, (1, 3)),
    TrialResult(OUTCOME, ((0, 2), (1,)), "ef"),
    Trial(PROPOSAL, OUTCOME),
    Tuned(True, "ab", [{"epoch": 0, "loss": None}]),
    Finished(
        (Artifact("report.html", "ab", 12, "text/html"),), {"macs": {"before": 2, "after": 1}}
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_survives_json(record: Record) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    again = type(record).from_json(json.loads(text))
    assert again == record
    assert json.dumps(again.to_json()) == text


def test_values_of_another_shape_are_refused() -> None:
    with pytest.raises(ValidationError, match="digest"):
        Artifact.from_json({"name": "report.html"})
