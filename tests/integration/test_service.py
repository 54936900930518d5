"""The whole service as a user starts it: `espalier serve`, a client, real processes.

One service is shared by the tests of this file. The job is small, the path is the whole one.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
import redis
import torch

import espalier
from benchmarks.attack.jobs import published
from benchmarks.attack.processes import processes
from benchmarks.service import Service
from tests.integration.conftest import Digits

SPEC = {
    "budget": {"macs": "60%"},
    "strategy": {"name": "netadapt", "first_step": 0.15, "tuning_steps": 2},
    "evaluation": {"calibration": 128, "holdout": 200, "metric": "cross_entropy"},
    "finetune": {"epochs": 1, "batch_size": 64},
    "rounding": {"multiple": 1},
    "seed": 3,
}


@pytest.fixture(scope="module")
def undisturbed(
    client: espalier.Client, uploads: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    job = client.submit({**SPEC, **uploads})["id"]
    assert client.wait(job, timeout=200)["state"] == "succeeded"
    folder = tmp_path_factory.mktemp("results")
    client.download(job, folder)
    return folder


def test_what_comes_back_meets_the_budget_and_loads_anywhere(
    undisturbed: Path, digits: Digits
) -> None:
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    assert metrics["macs"]["after"] <= 0.6 * metrics["macs"]["before"]
    images = digits.arrays["test_images"][:, None].astype(np.float32) / 255
    labels = digits.arrays["test_labels"]
    network = espalier.load(undisturbed / "network.espalier")
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(undisturbed / "network.onnx")
    (exported,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(exported, logits, atol=1e-3)
    accuracy = float((logits.argmax(1) == labels).mean())
    assert accuracy == pytest.approx(metrics["test_accuracy"]["after"], abs=0.003)


@pytest.mark.parametrize("kind", ["child", "supervisor"])
def test_a_killed_worker_changes_nothing(
    kind: str,
    service: Service,
    client: espalier.Client,
    data: Path,
    uploads: dict[str, str],
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    job = client.submit({**SPEC, **uploads, "name": f"killed {kind}"})["id"]
    killed: list[psutil.Process] = []

    def kill() -> None:
        time.sleep(3)
        for process in processes(service, kind)[:1]:
            process.kill()
            killed.append(process)

    thread = threading.Thread(target=kill)
    thread.start()
    view = client.wait(job, timeout=200)
    thread.join()
    assert killed
    assert view["state"] == "succeeded", view
    client.download(job, tmp_path)
    plans = [json.loads((at / "plan.json").read_text())["plan"] for at in (undisturbed, tmp_path)]
    assert plans[0] == plans[1]
    counts = published(next(data.glob("*.db")))
    assert len(set(counts.values())) == 1, "every job publishes every file once"


def test_what_the_service_writes_is_its_owners_alone(
    service: Service,  # noqa: ARG001 - it runs
    data: Path,
    undisturbed: Path,  # noqa: ARG001 - every process has written
) -> None:
    """Under the usual umask, and though the folder was there before, open to all."""
    found = {path.name: path.stat().st_mode for path in (data, *data.rglob("*"))}
    assert {"espalier.db", "espalier.db-wal", "redis.sock", "logs", "worker.log", "url"} <= set(
        found
    )
    del found["serve.log"]  # the test's own
    assert not {name: oct(mode) for name, mode in found.items() if mode & 0o077}


def test_an_emptied_broker_loses_nothing(
    client: espalier.Client, data: Path, uploads: dict[str, str]
) -> None:
    job = client.submit({**SPEC, **uploads, "name": "wiped"})["id"]
    time.sleep(2)
    (socket,) = data.glob("*.sock")
    redis.Redis(unix_socket_path=str(socket)).flushall()
    assert client.wait(job, timeout=200)["state"] == "succeeded"


def test_an_impossible_budget_is_refused_before_anything_runs(
    client: espalier.Client, uploads: dict[str, str]
) -> None:
    with pytest.raises(espalier.client.ApiError) as error:
        client.submit({**SPEC, **uploads, "budget": {"macs": 10}})
    assert error.value.code == "budget.unreachable"


def test_cancel_takes_effect_long_before_the_epochs_end(
    client: espalier.Client, uploads: dict[str, str]
) -> None:
    job = client.submit({**SPEC, **uploads, "finetune": {"epochs": 5000}})["id"]
    time.sleep(2)
    client.cancel(job)
    assert client.wait(job, timeout=60)["state"] == "canceled"
