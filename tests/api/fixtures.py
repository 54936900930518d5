"""The real application on a real SQLite file and a real socket, shared by the tests of its client.

No broker runs here: what the broker does not take stays in the outbox, as it must.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from sqlalchemy import update
from torch import nn

import migrations
from api.app import create_app
from api.dependencies import Service
from api.server import config
from espalier.format.lift import pack
from espalier.format.package import read_package
from espalier.targets import Device
from models.artifact import Artifact
from models.base import clock_s
from models.chain_times import keep_times
from models.ending import end
from models.events import append
from models.job import State
from models.locks import lock_job
from models.offers import Offer, offer
from models.references import retain
from models.settings import Settings
from models.states import move
from models.target import Target
from search.cost.chains import Chain
from search.cost.staircase import Probe
from search.graph import space_of

MAX_UPLOAD_BYTES = 4_000_000
CLASSES = 3
DEVICE = Device("here", "cpu", "a processor", "f")
"""On which onnxruntime is offered."""


class TinyNet(nn.Module):
    """Two convolutions and a classifier: two channel groups, counted by hand in the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x)).mean((2, 3))
        found: torch.Tensor = self.classifier(x)
        return found


MACS = 64 * (9 * 8 + 9 * 8 * 16) + 16 * CLASSES
PARAMS = 9 * 8 + 16 + (9 * 8 * 16 + 16) + (16 * CLASSES + CLASSES)


@dataclass(frozen=True, slots=True)
class Files:
    """What is uploaded."""

    package: Path
    dataset: Path


@dataclass(frozen=True, slots=True)
class Running:
    """The application, where it answers and what it stands on."""

    url: str
    service: Service


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    package = pack(TinyNet().eval(), torch.zeros(1, 1, 8, 8), folder / "tiny.espalier", name="tiny")
    generator = np.random.default_rng(0)
    dataset = folder / "tiny.npz"
    np.savez(
        dataset,
        images=generator.integers(0, 256, (200, 8, 8), np.uint8),
        labels=generator.integers(0, CLASSES, 200),
    )
    return Files(package, dataset)


@contextmanager
def serving(settings: Settings) -> Iterator[Running]:
    """The application on a migrated database."""
    app = create_app(settings)
    served = config(app, settings, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(served)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended at its start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", app.state.service)
    finally:
        server.should_exit = True
        thread.join()


def exchange(running: Running, *pieces: bytes) -> bytes:
    """What the service answers to these bytes, up to the end of its answer's first piece."""
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return connection.recv(1 << 16)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, max_upload_bytes=MAX_UPLOAD_BYTES)
    migrations.upgrade(settings.database)
    with serving(settings) as started:
        _offer(started.service)
        yield started


def _offer(service: Service) -> None:
    """Have the service believe that a worker was there a moment ago, however long a test takes."""
    with service.database.transaction() as session:
        offer(session, [Offer("onnxruntime", "1.31.1", DEVICE)])
        session.flush()
        session.execute(update(Target).values(seen_at=clock_s() + 86_400.0))


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def uploads(running: Running, files: Files) -> dict[str, str]:
    """Ids of the uploaded network and dataset."""
    found = {}
    for thing, path in (("network", files.package), ("dataset", files.dataset)):
        answer = httpx.post(
            f"{running.url}/v1/{thing}s", content=path.read_bytes(), timeout=60
        ).raise_for_status()
        found[thing] = str(answer.json()["id"])
    return found


@pytest.fixture
def spec(uploads: dict[str, str]) -> dict[str, object]:
    """A job that can be done."""
    return {
        **uploads,
        "budget": {"macs": "50%"},
        "strategy": {"name": "uniform"},
        "evaluation": {"calibration": 20, "holdout": 50},
        "rounding": {"multiple": 1},
    }


def publish(service: Service, job: str, contents: dict[str, bytes]) -> None:
    """Bring a queued job to its success with these result files, as the worker does."""
    with service.database.transaction() as session:
        row = lock_job(session, job)
        for state in (State.RUNNING, State.FINALIZING):
            move(session, row, state)
        for name, content in contents.items():
            stored = service.blobs.put([content])
            retain(session, stored.digest, stored.size_bytes)
            session.add(
                Artifact(
                    job_id=job,
                    name=name,
                    digest=stored.digest,
                    size_bytes=stored.size_bytes,
                    media_type="application/octet-stream",
                )
            )
        move(session, row, State.SUCCEEDED)


def fail(service: Service, job: str, code: str, error: str) -> None:
    """End a job as the worker does when nothing helps."""
    with service.database.transaction() as session:
        end(session, lock_job(session, job), State.FAILED, code=code, error=error)


def note(service: Service, job: str, **facts: object) -> None:
    """Append an event of progress."""
    with service.database.transaction() as session:
        append(session, lock_job(session, job), "progress", facts)


def leave_times(
    service: Service, package: Path, rule: Callable[[Chain], float], *, batch: int = 1
) -> int:
    """Keep times of all layers of a network on the target offered, as a job leaves them.

    Args:
        rule: seconds of a chain.
    Returns:
        How many there are.
    """
    chains = Probe(space_of(read_package(package).graph)).chains
    target = Offer("onnxruntime", "1.31.1", DEVICE).target(threads=1, batch=batch)
    with service.database.transaction() as session:
        keep_times(session, target.key, {name: rule(chain) for name, chain in chains.items()})
    return len(chains)
