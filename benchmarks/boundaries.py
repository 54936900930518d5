"""`kill -9` of every process of the service at every boundary between the steps of a job.

    python -m benchmarks.boundaries --each 10

A boundary is the moment at which the record shows the first unit of a kind (prepare, advance,
evaluate, tune, finalize) as claimed, or as done. Run after run, each kind of process (child,
supervisor, API, reaper, Redis) is killed at every boundary of a small job at which it was not
killed often enough yet, if it runs then: one that is being started again after the boundary before
has its turn in another run. Every job must succeed with the plan of an undisturbed run, publish
each file once, number its events without gaps, and leave no process behind. Writes
`benchmarks/results/boundaries.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo import prepare_digits
from benchmarks.faults import VICTIMS, Disturbance, one_run, victims
from benchmarks.record import save
from benchmarks.service import Service

ROOT = Path("var/boundaries")
STEPS = ("prepare", "advance", "evaluate", "tune", "finalize")
Boundary = tuple[str, str]
BOUNDARIES: tuple[Boundary, ...] = tuple(
    (step, state) for step in STEPS for state in ("claimed", "done")
)
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
_MOST_RUNS = 6  # for each kill of a process at a boundary


def kill_at_boundaries(wanted: Mapping[str, Collection[Boundary]]) -> Disturbance:
    """Kills processes of each kind at the boundaries wanted, as soon as the record shows them."""

    def disturb(service: Service, data: Path, log: list[Any]) -> None:
        deadline = time.monotonic() + _GIVE_UP_S
        left = {(kind, each) for kind, boundaries in wanted.items() for each in boundaries}
        path = f"file:{next(data.glob('*.db'))}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as record:
            while left and service.process.poll() is None and time.monotonic() < deadline:
                seen = set(record.execute("SELECT DISTINCT kind, state FROM work"))
                for kind, boundary in sorted(hit for hit in left if hit[1] in seen):
                    found = list(victims(service, kind))[:1]
                    if not found and boundary[1] == "claimed":
                        continue  # it may be there before the unit is done, as a first child is
                    left.remove((kind, boundary))
                    for process in found:
                        process.kill()
                    step, state = boundary
                    log.append({"kind": kind, "step": step, "at": state, "killed": len(found)})
                if not record.execute("SELECT 1 FROM jobs WHERE finished_at IS NULL").fetchone():
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

    `kills` counts those that hit, by process and boundary; some may be fewer after the most runs.
    """
    package, data, _digits = prepare_digits(folder)
    reference = one_run("undisturbed", package, data, None, job_spec=JOB, folder=folder)
    kills = Counter({(kind, boundary): 0 for kind in kinds for boundary in BOUNDARIES})
    runs: list[dict[str, Any]] = []
    while len(runs) < _MOST_RUNS * each:
        wanted = {
            kind: [each_ for each_ in BOUNDARIES if kills[kind, each_] < each] for kind in kinds
        }
        if not any(wanted.values()):
            break
        name = f"kills-{len(runs)}"
        disturbance = kill_at_boundaries(wanted)
        run = one_run(name, package, data, disturbance, job_spec=JOB, folder=folder)
        run["gaps"] = gaps(next((folder / name / "service").glob("*.db")))
        run["as_undisturbed"] = as_undisturbed(run, reference)
        for fault in run["faults"]:
            kills[fault["kind"], (fault["step"], fault["at"])] += fault["killed"]
        runs.append(run)
        print(json.dumps(run), flush=True)
    return {
        "runs": len(runs),
        "as_undisturbed": sum(run["as_undisturbed"] for run in runs),
        "orphans": sum(run["orphans"] for run in runs),
        "kills": {f"{kind} {step} {at}": n for (kind, (step, at)), n in kills.items()},
        "undisturbed_s": reference["seconds"],
        "longest_s": max(run["seconds"] for run in runs),
        "each": runs,
    }


def as_undisturbed(run: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether nothing shows in a run's outcome that it was disturbed."""
    return bool(
        run["state"] == "succeeded"
        and run["plan"] == reference["plan"]
        and run["published"] == reference["published"]
        and run["gaps"] == run["orphans"] == 0
    )


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
