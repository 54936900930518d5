"""Every error is a problem document with a stable code, the field, the limit and the way out."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from tests.api.fixtures import Running


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document, after what holds for all of them was checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["code"] == code
    assert found["type"] == f"urn:espalier:problem:{code}"
    assert found["instance"] == answer.request.url.path
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "request.not_found"),
        ("GET", "/v1/networks/net_x", 404, "not_found"),
        ("GET", "/v1/datasets/data_x", 404, "not_found"),
        ("GET", "/v1/jobs/job_x", 404, "not_found"),
        ("GET", "/v1/jobs/job_x?wait=1", 404, "not_found"),
        ("GET", "/v1/jobs/job_x/events", 404, "not_found"),
        ("GET", "/v1/jobs/job_x/trials", 404, "not_found"),
        ("GET", "/v1/jobs/job_x/artifacts", 404, "not_found"),
        ("GET", "/v1/jobs/job_x/artifacts/x", 404, "not_found"),
        ("POST", "/v1/jobs/job_x/cancel", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "request.method_not_allowed"),
    ],
)
def test_what_is_not_there(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    problem(http.request(method, path), status, code)


def test_the_documents_example_is_what_the_service_says(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]["ProblemDocument"]
    assert http.get(schema["example"]["instance"]).json() == schema["example"]


def test_a_wrong_method_is_told_all_the_right_ones(http: httpx.Client) -> None:
    assert http.delete("/v1/jobs").headers["allow"] == "GET, POST"
    assert http.put("/v1/jobs/some-job").headers["allow"] == "DELETE, GET"


def test_a_body_that_is_no_json(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    problem(answer, 400, "request.malformed")


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"rounding": {"multiple": 0}}, "rounding.multiple", "at least 1"),
        ({"rounding": {"multiple": "some"}}, "rounding.multiple", "one of 'auto'"),
        ({"finetune": {"momentum": 1}}, "finetune.momentum", "less than 1"),
        ({"evaluation": {"metric": "guess"}}, "evaluation.metric", "one of "),
        ({"strategy": {"name": "guess"}}, "strategy", "one of 'uniform', 'random', 'netadapt'"),
        ({"strategy": {"name": "random", "trials": 0}}, "strategy.trials", "at least 1"),
        ({"budget": {"macs": "120%"}}, "budget.macs", None),
        ({"colour": "red"}, "colour", None),
        (
            {"strategy": {"name": "allocate"}, "evaluation": {"calibration": 0}},
            "evaluation",
            None,
        ),
        ({"criterion": "obs", "evaluation": {"calibration": 0}}, "evaluation", None),
        ({"name": "x" * 201}, "name", "at most 200 long"),
    ],
)
def test_a_wrong_field_is_named_with_its_limit_and_a_way_out(
    http: httpx.Client, spec: dict[str, Any], change: Any, field: str, limit: str | None
) -> None:
    found = problem(http.post("/v1/jobs", json={**spec, **change}), 422, "request.invalid")
    (error,) = found["errors"]
    assert error["field"] == field
    assert error["way_out"]
    assert (error["limit"] or "").startswith(limit or "")
    assert field in found["detail"]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("finetune", "clip_norm", "1e999"),
        ("finetune", "learning_rate", "Infinity"),
        ("evaluation", "tuning_rate", "NaN"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(
    http: httpx.Client, spec: dict[str, Any], part: str, field: str, value: str
) -> None:
    body = json.dumps({**spec, part: {field: 1.5}}).replace("1.5", value)
    headers = {"Content-Type": "application/json"}
    answer = http.post("/v1/jobs", content=body, headers=headers)
    (error,) = problem(answer, 422, "request.invalid")["errors"]
    assert error["field"] == f"{part}.{field}"
    assert "null" in error["way_out"]


def test_every_wrong_field_is_told_at_once(http: httpx.Client, spec: dict[str, Any]) -> None:
    wrong = {**spec, "seed": -1, "criterion": "l7", "finetune": {"epochs": "many"}}
    found = problem(http.post("/v1/jobs", json=wrong), 422, "request.invalid")
    assert {error["field"] for error in found["errors"]} == {"seed", "criterion", "finetune.epochs"}


def test_a_database_that_does_not_answer(
    http: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(**_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused at db:5432"))

    monkeypatch.setattr(running.service.database, "transaction", down)
    answer = http.get("/v1/jobs")
    problem(answer, 503, "database.unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "5432" not in answer.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_our_own_tells_no_secrets(
    http: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("the password is sesame")

    monkeypatch.setattr(running.service.database, "transaction", broken)
    answer = http.get("/v1/jobs")
    problem(answer, 500, "internal")
    assert "sesame" not in answer.text
