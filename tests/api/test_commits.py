"""Nothing commits behind an error: an answer is encoded before what it tells of is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from api import schemas
from api.routes import datasets, jobs, networks
from tests.api.fixtures import CLASSES, Files, Running
from tests.api.test_jobs import create
from tests.api.test_problems import problem
from tests.api.test_uploads import another

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
UNSENDABLE = {"text": "\ud800"}


def rows(running: Running) -> dict[str, list[Any]]:
    """Every row of what clients change."""
    tables = ("jobs", "networks", "datasets", "events", "work", "outbox", "idempotency_keys")
    with running.service.database.transaction(write=False) as session:
        return {
            table: [tuple(row) for row in session.execute(text(f"select * from {table}"))]
            for table in tables
        }


@pytest.fixture
def unsendable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are made, but cannot be encoded."""

    def broken_job(*given: Any) -> Any:
        return schemas.job_view(*given).model_copy(update={"spec": UNSENDABLE})

    def broken_dataset(row: Any) -> Any:
        return schemas.dataset_view(row).model_copy(update={"description": UNSENDABLE})

    def broken_network(row: Any) -> Any:
        return schemas.network_view(row).model_copy(update={"name": "\ud800"})

    monkeypatch.setattr(jobs, "job_view", broken_job)
    monkeypatch.setattr(datasets, "dataset_view", broken_dataset)
    monkeypatch.setattr(networks, "network_view", broken_network)


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_steering(
    http: httpx.Client, running: Running, spec: dict[str, Any],
    request: pytest.FixtureRequest, action: str,
) -> None:  # fmt: skip
    job = create(http, spec)["id"]
    if action == "resume":
        http.post(f"/v1/jobs/{job}/pause").raise_for_status()
    request.getfixturevalue("unsendable")
    before = rows(running)
    problem(http.post(f"/v1/jobs/{job}/{action}"), 500, "internal")
    assert rows(running) == before


@pytest.mark.usefixtures("unsendable")
def test_submitting(http: httpx.Client, running: Running, spec: dict[str, Any]) -> None:
    before = rows(running)
    answer = http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "unsendable"})
    problem(answer, 500, "internal")
    assert rows(running) == before


@pytest.mark.usefixtures("unsendable")
def test_uploading(http: httpx.Client, running: Running, files: Files, tmp_path: Path) -> None:
    before = rows(running)
    package = another(files, tmp_path / "other", "unsendable")
    problem(http.post("/v1/networks", content=package), 500, "internal")
    dataset = io.BytesIO()
    np.savez(dataset, images=np.full((20, 8, 8), 7, np.uint8), labels=np.arange(20) % CLASSES)
    # Over another connection: the server closes one that met an error.
    answer = httpx.post(f"{running.url}/v1/datasets", content=dataset.getvalue(), timeout=30)
    problem(answer, 500, "internal")
    assert rows(running) == before


def test_a_row_that_has_no_view_breaks_no_list(
    http: httpx.Client, running: Running, spec: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One of an older version, say, or changed by hand."""
    job = create(http, spec)["id"]
    before = {path: http.get(f"/v1/{path}").json()["items"] for path in ("networks", "jobs")}
    update = "update {} set {} where id = :id"
    with running.service.database.transaction() as session:
        network = before["networks"][0]["id"]
        session.execute(text(update.format("networks", "description = '{}'")), {"id": network})
        session.execute(text(update.format("jobs", "created_at = 1e300")), {"id": job})
    for path, broken in (("networks", network), ("jobs", job)):
        left = [item for item in before[path] if item["id"] != broken]
        assert http.get(f"/v1/{path}").json()["items"] == left
        assert f"{broken} cannot be shown" in caplog.text
        problem(httpx.get(f"{running.url}/v1/{path}/{broken}"), 500, "internal")
