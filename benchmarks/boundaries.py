"""`kill -9` of every process of the service at every boundary between the steps of a job.

    python -m benchmarks.boundaries --each 10

A boundary is the moment at which the record shows the first unit of a kind (prepare, advance,
evaluate, tune, finalize) as claimed, or as done. In each run one kind of process (child,
supervisor, API, reaper, Redis) is killed at all ten boundaries of a small job. It must succeed with
the plan of an undisturbed run, publish each file once, number its events without gaps, and leave no
process behind. Writes `benchmarks/results/boundaries.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo import prepare_digits
from benchmarks.faults import VICTIMS, Disturbance, one_run, victims
from benchmarks.record import save
from benchmarks.service import Service

ROOT = Path("var/boundaries")
STEPS = ("prepare", "advance", "evaluate", "tune", "finalize")
BOUNDARIES = tuple((step, state) for step in STEPS for state in ("claimed", "done"))
JOB: dict[str, Any] = {
    "name": "small",
    "budget": {"macs": "60%"},
    "strategy": {"name": "random", "trials": 3},
    "evaluation": {"calibration": 64, "holdout": 100},
    "finetune": {"epochs": 2, "batch_size": 64},
    "seed": 0,
}
_LOOK_S = 0.005
_GIVE_UP_S = 300.0  # by then the job has failed, as its state says


def kill_at_boundaries(kind: str) -> Disturbance:
    """Kills a process of that kind at each boundary, as soon as the record shows it."""

    def disturb(service: Service, data: Path, log: list[Any]) -> None:
        deadline = time.monotonic() + _GIVE_UP_S
        left = list(BOUNDARIES)
        path = f"file:{next(data.glob('*.db'))}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as record:
            while left and service.process.poll() is None and time.monotonic() < deadline:
                seen = set(record.execute("SELECT DISTINCT kind, state FROM work"))
                states = {state for (state,) in record.execute("SELECT state FROM jobs")}
                for boundary in [each for each in left if each in seen]:
                    found = list(victims(service, kind))[:1]
                    if not found and boundary[1] == "claimed":
                        continue  # it is being started, and there while the unit is claimed
                    left.remove(boundary)
                    for process in found:
                        process.kill()
                    log.append({"step": boundary[0], "at": boundary[1], "killed": len(found)})
                if states and not states - {"succeeded", "failed", "canceled"}:
                    break
                time.sleep(_LOOK_S)

    return disturb


def gaps(database: Path) -> int:
    """How many of the events' numbers are missing."""
    query = "SELECT max(number) - count(*) FROM events GROUP BY job_id"
    with contextlib.closing(sqlite3.connect(database)) as record:
        return int(sum(count for (count,) in record.execute(query)))


def attack(
    each: int = 10, *, kinds: Sequence[str] = tuple(VICTIMS), folder: Path = ROOT
) -> dict[str, Any]:
    """Kill each kind of process `each` times at every boundary; figures as JSON values.

    `kills` counts those that hit, by process and boundary: where the process was being started
    again after the kill before, there was none.
    """
    package, data, _digits = prepare_digits(folder)
    reference = one_run("undisturbed", package, data, None, job_spec=JOB, folder=folder)
    runs, kills = [], Counter[str]()
    for kind in kinds:
        for number in range(each):
            name = f"{kind}-{number}"
            run = one_run(
                name, package, data, kill_at_boundaries(kind), job_spec=JOB, folder=folder
            )
            run["gaps"] = gaps(next((folder / name / "service").glob("*.db")))
            run["as_undisturbed"] = (
                run["state"] == "succeeded"
                and run["plan"] == reference["plan"]
                and run["published"] == reference["published"]
                and run["gaps"] == run["orphans"] == 0
            )
            for fault in run["faults"]:
                kills[f"{kind} {fault['step']} {fault['at']}"] += fault["killed"]
            runs.append(run)
            print(json.dumps(run), flush=True)
    return {
        "runs": len(runs),
        "as_undisturbed": sum(run["as_undisturbed"] for run in runs),
        "orphans": sum(run["orphans"] for run in runs),
        "kills": dict(kills),
        "undisturbed_s": reference["seconds"],
        "longest_s": max(run["seconds"] for run in runs),
        "each": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10, help="kills of a process at a boundary")
    parser.add_argument("--kinds", nargs="+", choices=list(VICTIMS), default=list(VICTIMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = attack(options.each, kinds=options.kinds)
    path = save("boundaries", "benchmarks.boundaries", figures)
    print(f"{figures['as_undisturbed']} of {figures['runs']} as undisturbed, written to {path}")
    if figures["as_undisturbed"] < figures["runs"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
