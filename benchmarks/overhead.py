"""What the service adds to a search: the same one as a library and through a running service.

    python -m benchmarks.overhead

Every pair has a seed of its own. In a pair the search runs once by `search.engine.find_winner` in
this process, and once as a job of a service with one worker, uploads over REST included but not
counted: the time is that from the end of `prepare` to the last trial told, which both sides have
warm behind them. Which side goes first alternates. Both must try the same plans with the same
scores. Writes `benchmarks/results/overhead.json`.

Two more figures are disturbed less by other work on the machine: the processor time of both sides,
of this process and of the worker with its child; and within each job the share of the search's time
in which no step ran. The library has a little of that too, which is not taken off.
Wall times compare on a quiet machine only: Linux shares the processors between sessions, and the
worker's child has one of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import espalier
from benchmarks.demo import prepare_digits
from benchmarks.record import save
from benchmarks.service import Service, running
from benchmarks.subjects import SUBJECTS
from search import engine
from search.context import forget
from search.files import FolderFiles
from search.records import Inputs
from search.spec import JobSpec

ROOT = Path("var/overhead")
SAMPLE_S = 0.1


def _digits(folder: Path) -> tuple[Path, Path]:
    if not (folder / "digits.espalier").exists():
        prepare_digits(folder)
    return folder / "digits.espalier", folder / "digits.npz"


def _resnet20(folder: Path) -> tuple[Path, Path]:
    return SUBJECTS["cifar10_resnet20a_holdout"].write(folder)


@dataclass(frozen=True)
class Case:
    """One search: what it is called, its files, and its specification."""

    name: str
    files: Callable[[Path], tuple[Path, Path]]
    spec: Mapping[str, Any]


def _spec(strategy: Mapping[str, Any], **evaluation: int) -> dict[str, Any]:
    return {
        "budget": {"macs": "50%"},
        "strategy": dict(strategy),
        "evaluation": {"metric": "cross_entropy", **evaluation},
        "finetune": {"epochs": 0},
        "rounding": {"multiple": 1},
    }


CASES = (
    Case(
        "ResNet-20, random",
        _resnet20,
        _spec({"name": "random", "trials": 20}, calibration=256, holdout=256),
    ),
    Case(
        "ResNet-20, netadapt",
        _resnet20,
        _spec(
            {"name": "netadapt", "first_step": 0.25, "tuning_steps": 2},
            calibration=256,
            holdout=500,
        ),
    ),
    Case(
        "digits, random",
        _digits,
        _spec({"name": "random", "trials": 100}, calibration=128, holdout=128),
    ),
    Case(
        "digits, netadapt",
        _digits,
        _spec({"name": "netadapt", "first_step": 0.06, "tuning_steps": 1}, calibration=128),
    ),
)


@dataclass(frozen=True)
class Search:
    """One run: seconds of wall and processor time, and (plan, score) of every trial.

    Attributes:
        steps_s: of the wall time, what the steps took by themselves; of a job.
    """

    wall_s: float
    cpu_s: float
    trials: list[tuple[tuple[int, ...], float | None]]
    steps_s: float = 0.0


def as_library(inputs: Inputs, files: FolderFiles) -> Search:
    """The search in this process."""
    forget()
    prepared = engine.prepare(inputs, files)
    wall, cpu = time.perf_counter(), time.process_time()
    _, trials = engine.find_winner(inputs, prepared, files)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    trials.sort(key=lambda trial: trial.proposal.number)
    return Search(wall_s, cpu_s, [(trial.outcome.plan, trial.outcome.score) for trial in trials])


class Clock:
    """Samples the processor time of a service's worker and of its child, by the wall clock."""

    def __init__(self, service: Service) -> None:
        children = psutil.Process(service.process.pid).children()
        (worker,) = [child for child in children if "worker.app" in child.cmdline()]
        self._worker = worker
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Clock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """Processor seconds between two moments, in seconds since 1970."""
        at, used = zip(*self._samples, strict=True)
        return float(np.interp(end, at, used) - np.interp(start, at, used))

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            processes = [self._worker, *self._worker.children()]
            times = [process.cpu_times() for process in processes]
            self._samples.append((time.time(), sum(t.user + t.system for t in times)))


def as_service(service: Service, client: espalier.Client, spec: Mapping[str, Any]) -> Search:
    """The search as a job, which is canceled after it; paused first, so that the child lives on."""
    with Clock(service) as clock:
        job = client.submit(spec)["id"]
        for view in client.watch(job):
            if view["stage"] == "tune" and not view["pause_requested"]:
                client.pause(job)
            if view["state"] == "paused":
                client.cancel(job)
    if view["state"] != "canceled":
        raise SystemExit(f"the job {view['state']}: {view.get('error')}")
    events = client.events(job)
    (start,) = [moment(event) for event in events if event["kind"] == "prepared"]
    end = min(
        moment(event)
        for event in events
        if event["kind"] == "progress" and event["data"]["stage"] == "tune"
    )
    trials = sorted(client.trials(job), key=lambda trial: int(trial["number"]))
    return Search(
        end - start,
        clock.between(start, end),
        [(tuple(trial["plan"]), trial["score"]) for trial in trials],
        steps_s(job),
    )


def steps_s(job: str) -> float:
    """How long the steps of a job's search took, by the record."""
    (database,) = (ROOT / "service").glob("*.db")
    query = "SELECT sum(seconds) FROM work WHERE job_id = ? AND kind IN ('advance', 'evaluate')"
    with sqlite3.connect(database) as connection:
        (found,) = connection.execute(query, (job,)).fetchone()
    return float(found)


def moment(event: Mapping[str, Any]) -> float:
    """When an event happened, in seconds since 1970."""
    return datetime.fromisoformat(event["at"]).timestamp()


def measure(
    case: Case, pairs: int, service: Service, client: espalier.Client, folder: Path
) -> dict[str, Any]:
    """All pairs of one case, as JSON values."""
    paths = case.files(folder)
    files = FolderFiles(folder / "files")
    digests = [files.put(path) for path in paths]
    names = {
        "network": client.upload_network(paths[0])["id"],
        "dataset": client.upload_dataset(paths[1])["id"],
    }
    found = []
    for seed in range(-1, pairs):  # the first one only warms up
        spec = {**case.spec, **names, "seed": seed + 1}
        inputs = Inputs(JobSpec.model_validate(spec), *digests)
        sides: dict[str, Callable[[], Search]] = {
            "library": lambda inputs=inputs: as_library(inputs, files),  # type: ignore[misc]
            "service": lambda spec=spec: as_service(service, client, spec),  # type: ignore[misc]
        }
        order = sorted(sides, reverse=bool(seed % 2))
        load = psutil.getloadavg()[0]
        pair = {name: sides[name]() for name in order}
        library, served = pair["library"], pair["service"]
        if library.trials != served.trials:
            raise SystemExit(f"{case.name}, seed {seed + 1}: both sides must give the same trials")
        if seed < 0:
            continue
        found.append(
            {
                "seed": seed + 1,
                "first": order[0],
                "load_before": round(load, 2),
                "trials": len(library.trials),
                "library_s": library.wall_s,
                "service_s": served.wall_s,
                "library_cpu_s": library.cpu_s,
                "service_cpu_s": served.cpu_s,
                "service_steps_s": served.steps_s,
            }
        )
        print(case.name, json.dumps(found[-1]), flush=True)
    return {"case": case.name, "spec": case.spec, **summary(found), "pairs": found}


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pairs, and the extremes of what is claimed."""
    added = [pair["service_s"] / pair["library_s"] - 1 for pair in pairs]
    per_trial = [1e3 * (pair["service_s"] - pair["library_s"]) / pair["trials"] for pair in pairs]
    cpu = [1e3 * (pair["service_cpu_s"] - pair["library_cpu_s"]) / pair["trials"] for pair in pairs]
    outside = [pair["service_s"] / pair["service_steps_s"] - 1 for pair in pairs]
    return {
        "trials": pairs[0]["trials"],
        "library_ms_per_trial": statistics.median(
            1e3 * pair["library_s"] / pair["trials"] for pair in pairs
        ),
        "added": statistics.median(added),
        "added_least": min(added),
        "added_most": max(added),
        "added_ms_per_trial": statistics.median(per_trial),
        "added_cpu_ms_per_trial": statistics.median(cpu),
        "outside_steps": statistics.median(outside),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--unsaved", action="store_true", help="leave the recorded result alone")
    options = parser.parse_args()
    shutil.rmtree(ROOT / "service", ignore_errors=True)
    torch.set_num_threads(1)
    with running(ROOT / "service") as service, espalier.Client(service.url) as client:
        cases = [
            measure(case, options.pairs, service, client, ROOT / f"case-{number}")
            for number, case in enumerate(CASES)
            if options.only in case.name
        ]
    for case in cases:
        print({key: value for key, value in case.items() if key not in ("spec", "pairs")})
    if not options.unsaved:
        print(f"written to {save('overhead', 'benchmarks.overhead', {'cases': cases})}")


if __name__ == "__main__":
    main()
