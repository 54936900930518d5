"""The document of the interface is committed, complete, and kept by what the service does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import create_app
from tests.api.fixtures import Running

COMMITTED = Path(__file__).parents[2] / "api" / "openapi.json"


def current() -> dict[str, Any]:
    found: dict[str, Any] = create_app().openapi()
    return found


def test_the_committed_document_is_current() -> None:
    written = json.loads(COMMITTED.read_text())
    assert written == current(), "run: python -m api.openapi"


def test_every_operation_has_a_name_of_its_own_and_tells_its_errors() -> None:
    operations = [operation for path in current()["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"]
        assert operation["tags"]
        answers = operation["responses"]
        assert "application/problem+json" in answers["default"]["content"]


# Without a broker, /readyz rightly says 503.
schema = schemathesis.openapi.from_dict(json.loads(COMMITTED.read_text())).exclude(path="/readyz")


@schema.parametrize()
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.usefixtures("uploads")
def test_whatever_is_sent_the_answer_is_as_documented(
    case: schemathesis.Case[Any], running: Running
) -> None:
    case.call_and_validate(
        base_url=running.url,
        timeout=20,
        excluded_checks=[positive_data_acceptance],  # bytes that are no package fit any schema
    )
