"""Targets over HTTP: what workers offer, and what a job may ask for."""

from __future__ import annotations

from typing import Any

import httpx

from tests.api.fixtures import DEVICE
from tests.api.test_jobs import create


def test_targets_are_listed(http: httpx.Client) -> None:
    (found,) = http.get("/v1/targets").json()["items"]
    assert found.pop("seen_at").endswith("Z")
    assert found == {
        "id": f"onnxruntime@{DEVICE.id}",
        "runtime": "onnxruntime",
        "version": "1.31.1",
        "device": {"id": DEVICE.id, **DEVICE.to_json()},
        "offered": True,
    }


def test_a_job_may_name_a_device(http: httpx.Client, spec: dict[str, Any]) -> None:
    for device in (DEVICE.id, None):
        job = create(http, {**spec, "target": {"device": device}})
        asked = {"runtime": "onnxruntime", "threads": 1, "batch": 1, "device": device}
        assert job["spec"]["target"] == asked
        assert job["waiting_for"] is None


def test_an_unknown_device_is_refused_by_name(http: httpx.Client, spec: dict[str, Any]) -> None:
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        answer = http.post(path, json={**spec, "target": {"device": "dev_1"}})
        assert answer.status_code == 422
        (problem,) = answer.json()["errors"]
        assert problem["field"] == "target.device"
        assert "onnxruntime@dev_1" in problem["message"]


def test_a_job_waits_for_a_runtime_that_nobody_offers(
    http: httpx.Client, spec: dict[str, Any]
) -> None:
    job = create(http, {**spec, "target": {"runtime": "torch"}})
    assert job["waiting_for"] == "target: no worker offers torch now"
