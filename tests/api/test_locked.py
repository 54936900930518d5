"""Another process holds SQLite's lock: reads go on, writes are told to come later, and do."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import migrations
from api import app
from models.settings import Settings
from tests.api.fixtures import Files, Running, serving
from tests.api.test_problems import problem

PATIENCE_S = 5.0
WRITERS = 60  # more than there are threads for all requests together
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"begin {sys.argv[2]}")
connection.execute("update networks set name = 'half'")
print("held", flush=True)
sys.stdin.read()
connection.execute("rollback")
connection.close()
print("free", flush=True)
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(app, "_PATIENCE_S", PATIENCE_S)
    settings = Settings(home=tmp_path)
    migrations.upgrade(settings.database)
    with serving(settings) as started:
        yield started


@contextmanager
def held(service: Running, how: str) -> Iterator[None]:
    """The lock, in a process of its own."""
    path = str(service.service.settings.home / "espalier.db")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            assert process.stdout.readline() == "free\n"


@pytest.mark.parametrize("how", ["immediate", "exclusive"])
def test_reads_go_on_and_writes_are_told_to_come_later(
    service: Running, files: Files, how: str
) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as http:
        network = http.post("/v1/networks", content=files.package.read_bytes()).json()["id"]
        dataset = http.post("/v1/datasets", content=files.dataset.read_bytes()).json()["id"]
        spec = {"network": network, "dataset": dataset, "budget": {"macs": "50%"}}
        spec |= {"strategy": {"name": "uniform"}, "evaluation": {"calibration": 20, "holdout": 50}}
        job = http.post("/v1/jobs", json=spec).json()["id"]

        answered: list[str] = []
        order = threading.Lock()

        def write() -> httpx.Response:
            answer = http.post(f"/v1/jobs/{job}/pause")
            with order:
                answered.append("write")
            return answer

        with held(service, how), ThreadPoolExecutor(WRITERS) as pool:
            writes = [pool.submit(write) for _ in range(WRITERS)]
            for _ in range(3):
                for path in ("/v1/jobs", f"/v1/jobs/{job}", f"/v1/networks/{network}", "/metrics"):
                    assert http.get(path).status_code == 200
                    with order:
                        answered.append("read")
            for pending in writes:
                told = problem(pending.result(), 503, "database.unavailable")
                assert told["detail"].startswith("database: another process holds its lock")
                assert int(pending.result().headers["retry-after"]) > 0
            assert answered.index("write") == 12, "a read waited for a writer"

            done = threading.Event()
            late = pool.submit(write)
            late.add_done_callback(lambda _: done.set())
            assert done.wait(PATIENCE_S / 2), "a lock known to be stuck was waited for"
            problem(late.result(), 503, "database.unavailable")
            refused = http.post("/v1/networks", content=files.package.read_bytes() + b" ")
            assert refused.status_code in (422, 503)
        assert http.get(f"/v1/jobs/{job}").json()["pause_requested"] is False
        assert http.get(f"/v1/networks/{network}").json()["name"] == "tiny"
        assert http.post(f"/v1/jobs/{job}/pause").json()["state"] == "paused"
