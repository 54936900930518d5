"""A small job in a service of its own, disturbed while it runs, beside the undisturbed one."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

import espalier
from benchmarks.attack.processes import descendants
from benchmarks.demo import prepare_digits
from benchmarks.service import SHORT_LEASES, Service, running

STEPS = ("prepare", "advance", "evaluate", "tune", "finalize")
JOB: dict[str, Any] = {
    "name": "small",
    "budget": {"macs": "60%"},
    "strategy": {"name": "random", "trials": 3},
    "evaluation": {"calibration": 64, "holdout": 100},
    "finetune": {"epochs": 2, "batch_size": 64},
    "seed": 0,
}
LOOK_S = 0.005
"""How often a disturbance looks at the record."""
GIVE_UP_S = 300.0
"""By then the job has failed, as its state says."""

Disturbance = Callable[[Service, Path, list[Any]], None]
"""Does something to a service with that folder while a job runs, and notes what."""


class Undisturbed:
    """The job, and what becomes of it where nothing disturbs it.

    Args:
        folder: of the services, each in one of the run's name.
    """

    def __init__(self, folder: Path) -> None:
        self._package, self._data, _digits = prepare_digits(folder)
        self.outcome = self._run("undisturbed", folder, lambda *_: None)

    def beside(self, name: str, folder: Path, disturb: Disturbance) -> dict[str, Any]:
        """The job once more under a disturbance; its outcome, and whether that is the same."""
        outcome = self._run(name, folder, disturb)
        outcome["as_undisturbed"] = bool(
            outcome["state"] == "succeeded"
            and outcome["plan"] == self.outcome["plan"]
            and outcome["published"] == self.outcome["published"]
            and outcome["gaps"] == outcome["orphans"] == 0
        )
        print(json.dumps(outcome), flush=True)
        return outcome

    def _run(self, name: str, folder: Path, disturb: Disturbance) -> dict[str, Any]:
        root = folder / name
        shutil.rmtree(root, ignore_errors=True)
        log: list[Any] = []
        seen: dict[int, psutil.Process] = {}
        started = time.monotonic()
        with (
            running(root / "service", workers=2, settings=SHORT_LEASES) as service,
            espalier.Client(service.url) as client,
        ):
            network = client.upload_network(self._package)["id"]
            dataset = client.upload_dataset(self._data)["id"]
            job = client.submit({**JOB, "network": network, "dataset": dataset})["id"]
            thread = threading.Thread(target=disturb, args=(service, root / "service", log))
            thread.start()
            view: dict[str, Any] = {}
            for latest in client.watch(job):
                view = latest
                seen.update((process.pid, process) for process in descendants(service))
            thread.join()
            seen.update((process.pid, process) for process in descendants(service))
            seconds = time.monotonic() - started
            plan = None
            if view["state"] == "succeeded":
                client.download(job, root / "results")
                plan = json.loads((root / "results" / "plan.json").read_text())["plan"]
        _gone, alive = psutil.wait_procs(list(seen.values()), timeout=10)
        database = next((root / "service").glob("*.db"))
        return {
            "run": name,
            "state": view["state"],
            "faults": log,
            "seconds": round(seconds, 1),
            "orphans": len(alive),
            "plan": plan,
            "published": published(database),
            "gaps": gaps(database),
        }


def published(database: Path) -> dict[str, int]:
    """How many artifacts the database has, by name."""
    with contextlib.closing(sqlite3.connect(database)) as record:
        rows = record.execute("SELECT name, count(*) FROM artifacts GROUP BY name").fetchall()
    return dict(rows)


def gaps(database: Path) -> int:
    """How many of the events' numbers are missing."""
    query = "SELECT max(number) - count(*) FROM events GROUP BY job_id"
    with contextlib.closing(sqlite3.connect(database)) as record:
        return int(sum(count for (count,) in record.execute(query)))


def judged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many runs went as the undisturbed one, and whether all did; figures as JSON values."""
    same = sum(run["as_undisturbed"] for run in runs)
    return {
        "runs": len(runs),
        "as_undisturbed": same,
        "orphans": sum(run["orphans"] for run in runs),
        "longest_s": max(run["seconds"] for run in runs),
        "held": same == len(runs),
        "each": list(runs),
    }
