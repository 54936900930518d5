"""Every command of the production stack, as docker-compose.yml has it, on PostgreSQL and Redis."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import espalier
from espalier.redis_server import RedisServer
from tests.integration.conftest import Digits

ROOT = Path(__file__).parent.parent.parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]


def command(service: str, port: int) -> list[str]:
    """The service's command; only the address and the number of slots are this machine's."""
    text = SERVICES[service]["command"].replace("${ESPALIER_SLOTS:-1}", "1")
    words = shlex.split(re.sub(r"(?<=--host )\S+", "127.0.0.1", text).replace("8765", str(port)))
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def environment(
    empty_postgresql_url: str, redis_server: RedisServer, tmp_path: Path
) -> dict[str, str]:
    """What the file sets and nothing else, with this machine's values."""
    inherited = {key: os.environ[key] for key in os.environ if not key.startswith("ESPALIER_")}
    ours = {
        "ESPALIER_DATABASE_URL": empty_postgresql_url,
        "ESPALIER_REDIS_URL": redis_server.url,
        "ESPALIER_BLOBS": f"file://{tmp_path / 'volume' / 'blobs'}",
        "ESPALIER_HOME": str(tmp_path / "volume"),
    }
    set_there = {key: ours[key] for key in SERVICES["worker"]["environment"]}
    return {**inherited, **set_there, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def stack(environment: dict[str, str], port: int, tmp_path: Path) -> Iterator[str]:
    """The running stack; gives its address."""
    subprocess.run(command("migrate", port), cwd=ROOT, env=environment, check=True)
    started: list[subprocess.Popen[bytes]] = []
    url = f"http://127.0.0.1:{port}"
    try:
        for name in ("api", "reaper", "worker"):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        command(name, port), cwd=ROOT, env=environment, stdout=log, stderr=log
                    )
                )
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (tmp_path / "api.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        for process in started:
            process.terminate()
        for process in started:
            assert process.wait(40) in (0, -15)


def test_a_job_ends_on_the_production_stack(
    stack: str, environment: dict[str, str], port: int, digits: Digits, tmp_path: Path
) -> None:
    for name in ("worker", "reaper", "api"):
        check = SERVICES[name]["healthcheck"]["test"]
        words = [word.replace("8765", str(port)) for word in check[1:]]
        subprocess.run([sys.executable, *words[1:]], cwd=ROOT, env=environment, check=True)

    spec = {
        "budget": {"params": "50%"},
        "strategy": {"name": "random", "trials": 4},
        "evaluation": {"calibration": 128, "holdout": 200},
        "finetune": {"epochs": 1},
    }
    with espalier.Client(stack) as client:
        uploads = {
            "network": client.upload_network(digits.package)["id"],
            "dataset": client.upload_dataset(digits.data)["id"],
        }
        job = client.submit({**spec, **uploads})["id"]
        view = client.wait(job, timeout=200)
        assert view["state"] == "succeeded", view
        files = {path.name for path in client.download(job, tmp_path / "results")}
    assert {"network.espalier", "network.onnx", "plan.json", "report.html"} <= files
