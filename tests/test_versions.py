"""Jobs go on under the rules that they began with, whatever specifications are like meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.records import Inputs
from search.spec import JobSpec
from search.versions import NEWEST

# As the service stored them before specifications had a version, one of each strategy.
STORED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "specs_version_1.json").read_text()
)


@pytest.mark.parametrize("values", STORED, ids=lambda values: values["strategy"]["name"])
def test_a_job_from_before_there_were_versions_keeps_its_identity(values: dict[str, Any]) -> None:
    """Its checkpoints are matched by this text, so even the order counts."""
    spec = JobSpec.stored(values)
    assert spec.version == 1
    assert json.dumps(spec.identity()) == json.dumps(values)
    assert json.dumps(spec.finetune.identity()) == json.dumps(values["finetune"])
    inputs = Inputs.from_json({"spec": values, "network": "ab", "dataset": "cd"})
    assert inputs.spec == spec
    assert Inputs.from_json(inputs.to_json()) == inputs


def test_what_comes_now_is_of_the_newest_version_and_stays_so() -> None:
    values = {**STORED[0], "seed": 3}
    spec = JobSpec.model_validate(values)
    assert spec.version == NEWEST > 1
    assert JobSpec.stored(spec.model_dump(mode="json")) == spec
    assert spec.identity()["version"] == NEWEST
    assert spec.identity() != JobSpec.stored(values).identity()
    assert spec.levels != JobSpec.stored(values).levels


def test_a_request_is_the_same_before_and_after_an_upgrade() -> None:
    values = STORED[0]
    assert JobSpec.model_validate(values).request == values
    assert JobSpec.model_validate({**values, "version": NEWEST}).request == values
    assert JobSpec.model_validate({**values, "version": 1}).request == {**values, "version": 1}
