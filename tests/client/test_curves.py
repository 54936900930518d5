"""`espalier sensitivity`: what it asks the service for, and what it shows."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from espalier.cli.curves import job_of
from espalier.client import Client
from search.spec import JobSpec
from search.strategy_specs import SensitivitySpec
from tests.api.fixtures import Files, Running, publish
from tests.client.commands import SET, Run, refused


def point(level: float, kept: int, drop: float | None, macs: int) -> dict[str, Any]:
    return {"level": level, "kept": kept, "drop": drop, "cost": {"macs": macs}}


def facts(metric: str = "top1", allocated: dict[str, Any] | None = None) -> dict[str, Any]:
    """As a finished job has them."""
    first = [point(0.8, 6, -0.0001, 900), point(0.5, 4, 0.0123, 750)]
    second = [point(0.8, 13, 0.2, 800), point(0.5, 8, None, 600)]
    return {
        "metric": metric,
        "original": {"score": 0.9, "cost": {"macs": 1000}},
        "groups": [
            {"name": "first[0]", "channels": 8, "points": first},
            {"name": "second", "channels": 16, "points": second},
        ],
        "allocated": allocated,
    }


def measured(run: Run, running: Running, files: Files, found: dict[str, Any], *more: str) -> Any:
    """The command, while somebody else does the job's work; its result and the job."""
    jobs: list[dict[str, Any]] = []

    def work() -> None:
        with Client(running.url) as client:
            while not jobs:
                time.sleep(0.05)
                waiting = client.jobs(strategy="sensitivity", state="queued")
                jobs.extend(waiting)
        contents = {"sensitivity.json": json.dumps(found).encode(), "sensitivity.svg": b"<svg/>"}
        publish(running.service, jobs[0]["id"], contents)

    thread = threading.Thread(target=work)
    thread.start()
    result = run("sensitivity", files.package, files.dataset, *SET, *more)
    thread.join()
    assert result.exit_code == 0, result.output
    return result.stdout, jobs[0]


def test_curves_are_measured_and_shown(run: Run, running: Running, files: Files) -> None:
    shown, job = measured(run, running, files, facts(), "--levels", "5", "--set", "criterion=l2")
    spec = job["spec"]
    assert spec["strategy"] == {"name": "sensitivity", "levels": 5}
    assert (spec["budget"]["macs"], spec["finetune"]["epochs"]) == ("100%", 0)
    assert (spec["criterion"], spec["evaluation"]["holdout"]) == ("l2", 50)
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] == ["first[0]"]]
    assert rows == [["first[0]", "8", "0.0", "1.2", "25.0", "%"]]
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] == ["second"]]
    assert rows == [["second", "16", "20.0", "failed", "40.0", "%"]]
    assert "Drop in top1, points" in shown
    plot = f"{running.url}/v1/jobs/{job['id']}/artifacts/sensitivity.svg"
    assert plot in shown, "in one piece"
    assert "The plan" not in shown
    with Client(running.url) as client:
        assert client.sensitivity(job["id"]) == facts()


def test_a_loss_and_a_plan(run: Run, running: Running, files: Files) -> None:
    found = facts("cross_entropy", {"plan": [4, 16]})
    shown, job = measured(
        run, running, files, found, "--metric", "cross_entropy", "--set", "budget.macs=80%"
    )
    assert job["spec"]["evaluation"]["metric"] == "cross_entropy"
    assert job["spec"]["budget"]["macs"] == "80%"
    assert "Rise in cross_entropy with" in shown
    assert "0.2000" in shown
    assert "The plan that the curves lead to: first[0] 4, second 16" in shown


def test_what_cannot_be_measured(run: Run, files: Files) -> None:
    refused(run("sensitivity", files.package, "nowhere.npz"), 2, "nowhere.npz")
    refused(run("sensitivity", files.package, files.package), 2, "network's package")
    ask = ("sensitivity", files.package, files.dataset)
    refused(run(*ask, *SET, "--metric", "speed"), 1, "evaluation.metric")
    refused(run(*ask, *SET, "--set", "strategy=uniform"), 2, "this command's strategy")


@pytest.mark.parametrize("metric", [None, "agreement"])
def test_the_job_is_one_that_the_service_takes(metric: str | None) -> None:
    given = {"evaluation": {"holdout": 7}, "seed": 3, "network": "n", "dataset": "d"}
    spec = JobSpec.model_validate(job_of(3, metric, given))
    assert spec.strategy == SensitivitySpec(levels=3)
    assert spec.rounding.multiple == 1
    assert spec.finetune.epochs == 0
    assert (spec.evaluation.metric, spec.evaluation.holdout) == (metric or "top1", 7)
    assert spec.seed == 3
