"""A service of real processes around the steps of `fake_child.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from models.bell import BrokerBell
from models.blobs import BlobStore
from models.database import Database
from models.job import Job
from models.jobs import create_job, get_job
from models.settings import Settings
from models.uploads import create_dataset, create_network
from worker.supervisor import Slot

ROOT = Path(__file__).parents[2]
FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Waits until something is true, and fails if it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Service:
    """The record, the blobs and the processes of one test."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.log = folder / "steps.log"
        self.log.touch()
        self.bell = BrokerBell(settings)
        self.database = Database.of(settings, bell=self.bell if settings.redis_url else None)
        self.store = BlobStore.open(settings.blob_url)
        self.draining = threading.Event()
        self.workers: list[subprocess.Popen[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._slots: list[Slot] = []

    def submit(
        self, *, seed: int = 0, key: str | None = None, strategy: str = "fake", **fake: Any
    ) -> str:
        """Submits a job whose steps behave as told; its id."""
        stored = self.store.put([b"uploaded"])
        with self.database.transaction() as session:
            given = {"digest": stored.digest, "size_bytes": stored.size_bytes, "description": {}}
            network = create_network(session, name="network", **given)
            dataset = create_dataset(session, name="data", **given)
            spec = {
                "network": network.id,
                "dataset": dataset.id,
                "strategy": {"name": strategy},
                "seed": seed,
                "fake": {"trials": 3, "log": str(self.log)} | fake,
            }
            return create_job(session, spec, idempotency_key=key).job.id

    def job(self, job_id: str) -> Job:
        with self.database.transaction(write=False) as session:
            return get_job(session, job_id)

    def finished(self, job_id: str) -> Callable[[], bool]:
        return lambda: self.job(job_id).terminal

    def slot(self) -> Slot:
        """A supervisor in this process."""
        made = Slot(self.database, self.store, self.settings, self.draining, FAKE)
        self._slots.append(made)
        return made

    def starts(self, kind: str, number: int = 0) -> int:
        """How often a step began."""
        return sum(
            line.startswith(f"start {kind} {number} ") for line in self.log.read_text().splitlines()
        )

    def start(self, *module: str) -> subprocess.Popen[bytes]:
        """Starts a process of the service."""
        environment = {
            f"ESPALIER_{name.upper()}": str(value)
            for name, value in self.settings.model_dump().items()
            if value is not None
        }
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def worker(self, slots: int = 1) -> subprocess.Popen[bytes]:
        """A Celery worker."""
        options = ("--pool", "threads", "--concurrency", str(slots), "--loglevel", "INFO")
        process = self.start("celery", "-A", "tests.worker.fake_app", "worker", *options)
        self.workers.append(process)
        return process

    def reaper(self) -> subprocess.Popen[bytes]:
        return self.start("worker.reaper")

    def children(self) -> set[int]:
        """Processes that run `fake_child.py`, of this test."""
        logged = {int(line.split()[-1]) for line in self.log.read_text().splitlines()}
        return {
            pid
            for pid in logged
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        }

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        for process in self._processes:
            process.kill()
            process.wait()
        self.database.dispose()
