"""The demonstration's job under `kill -9`: it always ends, and always the same.

    python -m benchmarks.faults --runs 20

Runs the job once undisturbed. Then, run after run, kills the worker's child or its supervisor
with SIGKILL at random moments; in one more run it wipes Redis instead. Every run must succeed
with the plan of the undisturbed one, publish each file once, and leave no process behind.
Writes `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import torch

import espalier
from benchmarks.demo import JOB, prepare_digits
from benchmarks.record import save
from benchmarks.service import SHORT_LEASES, Service, running

ROOT = Path("var/faults")
VICTIMS = {
    "child": "worker.child",
    "supervisor": "worker.app",
    "api": "api",
    "reaper": "worker.reaper",
    "redis": "redis-server",
}
"""A word of the command line, or the name, by which a process of each kind is known."""

Disturbance = Callable[[Service, Path, list[Any]], None]
"""Does something to a service with that folder while a job runs, and notes what."""


def descendants(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def victims(service: Service, kind: str) -> Iterator[psutil.Process]:
    """The service's processes of a kind; not what they forked themselves."""
    for process in descendants(service):
        try:
            parent = process.parent()
            words = process.cmdline()
            known = VICTIMS[kind] in (*words, process.name())
            if known and parent is not None and parent.cmdline() != words:
                yield process
        except psutil.Error:
            continue  # it ended while we looked


def kill_at(moments: list[tuple[float, str]]) -> Disturbance:
    """A disturbance that kills one process of each kind at its moment, seconds after the start."""

    def disturb(service: Service, _data: Path, log: list[Any]) -> None:
        started = time.monotonic()
        for moment, kind in moments:
            time.sleep(max(0.0, started + moment - time.monotonic()))
            for process in list(victims(service, kind))[:1]:
                process.kill()
                log.append({"after_s": round(time.monotonic() - started, 2), "killed": kind})

    return disturb


def wipe_at(moment: float) -> Disturbance:
    """A disturbance that empties Redis."""

    def disturb(_service: Service, data: Path, log: list[Any]) -> None:
        time.sleep(moment)
        (socket,) = data.glob("*.sock")
        redis.Redis(unix_socket_path=str(socket)).flushall()
        log.append({"after_s": moment, "wiped": "redis"})

    return disturb


def one_run(
    name: str,
    package: Path,
    data: Path,
    disturb: Disturbance | None,
    *,
    job_spec: Mapping[str, Any] = JOB,
    folder: Path = ROOT,
) -> dict[str, Any]:
    """The job once, in a service of its own; what became of it, as JSON values.

    Args:
        disturb: called in a thread of its own once the job is submitted.
        folder: of the services, each in one of the run's name.
    """
    root = folder / name
    shutil.rmtree(root, ignore_errors=True)
    log: list[Any] = []
    seen: dict[int, psutil.Process] = {}
    started = time.monotonic()
    with (
        running(root / "service", workers=2, settings=SHORT_LEASES) as service,
        espalier.Client(service.url) as client,
    ):
        network = client.upload_network(package)["id"]
        dataset = client.upload_dataset(data)["id"]
        job = client.submit({**job_spec, "network": network, "dataset": dataset})["id"]
        thread = threading.Thread(
            target=disturb or (lambda *_: None), args=(service, root / "service", log)
        )
        thread.start()
        view: dict[str, Any] = {}
        for latest in client.watch(job):
            view = latest
            seen.update((process.pid, process) for process in descendants(service))
        thread.join()
        seen.update((process.pid, process) for process in descendants(service))
        seconds = time.monotonic() - started
        if view["state"] == "succeeded":
            client.download(job, root / "results")
    _gone, alive = psutil.wait_procs(list(seen.values()), timeout=10)
    result: dict[str, Any] = {"run": name, "state": view["state"], "faults": log}
    result |= {"seconds": round(seconds, 1), "orphans": len(alive)}
    if view["state"] == "succeeded":
        result["plan"] = json.loads((root / "results" / "plan.json").read_text())["plan"]
    result["published"] = published(next((root / "service").glob("*.db")))
    return result


def published(database: Path) -> dict[str, int]:
    """How many artifacts the database has, by name."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name, count(*) FROM artifacts GROUP BY name").fetchall()
    return dict(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    package, data, _digits = prepare_digits(ROOT)

    reference = one_run("undisturbed", package, data, None)
    length = reference["seconds"]
    runs = [reference]
    for number in range(options.runs):
        moments = sorted(
            (float(rng.uniform(0, length)), str(rng.choice(["child", "supervisor"])))
            for _ in range(2)
        )
        runs.append(one_run(f"kill-{number}", package, data, kill_at(moments)))
        print(json.dumps(runs[-1]), flush=True)
    runs.append(one_run("redis-wiped", package, data, wipe_at(length / 2)))

    for run in runs:
        good = run["state"] == "succeeded" and run["plan"] == reference["plan"]
        run["as_undisturbed"] = good and run["published"] == reference["published"]
    figures = {
        "runs": len(runs) - 1,
        "as_undisturbed": sum(run["as_undisturbed"] for run in runs[1:]),
        "orphans": sum(run["orphans"] for run in runs),
        "seed": options.seed,
        "settings": SHORT_LEASES,
        "each": runs,
    }
    path = save("faults", "benchmarks.faults", figures)
    print(f"{figures['as_undisturbed']} of {figures['runs']} as undisturbed, written to {path}")
    if figures["as_undisturbed"] < figures["runs"] or figures["orphans"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
