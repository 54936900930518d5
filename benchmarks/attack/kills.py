"""`kill -9` of every process of the service at every boundary between the steps of a job.

A boundary is the moment at which the record shows the first unit of a kind (prepare, advance,
evaluate, tune, finalize) as claimed, or as done. Run after run, each kind of process (child,
supervisor, API, reaper, Redis) is killed at every boundary of a small job at which it was not
killed often enough yet, if it runs then: one that is being started again after the boundary before
has its turn in another run. In one more run Redis is emptied instead. Every job must succeed with
the plan of an undisturbed run, publish each file once, number its events without gaps, and leave
no process behind.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import redis

from benchmarks.attack.jobs import GIVE_UP_S, LOOK_S, STEPS, Disturbance, Undisturbed, judged
from benchmarks.attack.processes import KINDS, processes
from benchmarks.service import Service

Boundary = tuple[str, str]
BOUNDARIES: tuple[Boundary, ...] = tuple(
    (step, state) for step in STEPS for state in ("claimed", "done")
)
_MOST_RUNS = 6  # for each kill of a process at a boundary


def kill_at_boundaries(wanted: Mapping[str, Collection[Boundary]]) -> Disturbance:
    """Kills processes of each kind at the boundaries wanted, as soon as the record shows them."""

    def disturb(service: Service, data: Path, log: list[Any]) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        left = {(kind, each) for kind, boundaries in wanted.items() for each in boundaries}
        path = f"file:{next(data.glob('*.db'))}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True)) as record:
            while left and service.process.poll() is None and time.monotonic() < deadline:
                seen = set(record.execute("SELECT DISTINCT kind, state FROM work"))
                for kind, boundary in sorted(hit for hit in left if hit[1] in seen):
                    found = processes(service, kind)[:1]
                    if not found and boundary[1] == "claimed":
                        continue  # it may be there before the unit is done, as a first child is
                    left.remove((kind, boundary))
                    for process in found:
                        process.kill()
                    step, state = boundary
                    log.append({"kind": kind, "step": step, "at": state, "killed": len(found)})
                if not record.execute("SELECT 1 FROM jobs WHERE finished_at IS NULL").fetchone():
                    break
                time.sleep(LOOK_S)

    return disturb


def wipe_at(seconds: float) -> Disturbance:
    """Empties Redis so long after the job is submitted."""

    def disturb(_service: Service, data: Path, log: list[Any]) -> None:
        time.sleep(seconds)
        (socket,) = data.glob("*.sock")
        redis.Redis(unix_socket_path=str(socket)).flushall()
        log.append({"after_s": seconds, "wiped": "redis"})

    return disturb


def attack(folder: Path, each: int) -> dict[str, Any]:
    """Kill each kind of process `each` times at every boundary; figures as JSON values.

    `kills` counts those that hit, by process and boundary; some may be fewer after the most runs.
    """
    undisturbed = Undisturbed(folder)
    kills = Counter({(kind, boundary): 0 for kind in KINDS for boundary in BOUNDARIES})
    half = undisturbed.outcome["seconds"] / 2
    runs = [undisturbed.beside("redis-wiped", folder, wipe_at(half))]
    while len(runs) <= _MOST_RUNS * each:
        wanted = {kind: [at for at in BOUNDARIES if kills[kind, at] < each] for kind in KINDS}
        if not any(wanted.values()):
            break
        run = undisturbed.beside(f"kills-{len(runs)}", folder, kill_at_boundaries(wanted))
        for fault in run["faults"]:
            kills[fault["kind"], (fault["step"], fault["at"])] += fault["killed"]
        runs.append(run)
    counts = {f"{kind} {step} {at}": n for (kind, (step, at)), n in kills.items()}
    return {"kills": counts, "undisturbed_s": undisturbed.outcome["seconds"]} | judged(runs)
