"""A child with steps that take no time to compute: what they do is told by `spec["fake"]`.

fake:
    trials: how many the search proposes.
    seconds: how long a step of each kind takes.
    slices: of fine-tuning.
    die: kinds whose process ends by SIGKILL, always.
    raises: kinds that raise, with what.
    deaf: kinds that do not stop when asked.
    staircase: that `prepare` gives.
    warnings, late_warnings: that `prepare` and `finalize` give.
    full: kinds whose disk is full as long as the file of that name exists.
    reads: kinds that read the network.
    bulk: how many more metrics a trial has.
    log: a file that gets a line at each start and end: `start evaluate 3 PID`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.format.errors import FormatError
from models.settings import Settings
from worker.child import Context, Step, main

Values = Mapping[str, Any]


class Run:
    """One run of a step: its log, its time and its faults."""

    def __init__(self, kind: str, given: Values, context: Context, number: int = 0) -> None:
        self.fake = given["inputs"]["spec"]["fake"]
        self.context = context
        self.network = given["inputs"]["network"]
        self.kind, self.number = kind, number

    def log(self, what: str) -> None:
        with Path(self.fake["log"]).open("a") as file:
            file.write(f"{what} {self.kind} {self.number} {os.getpid()}\n")

    def go(self) -> bool:
        """Pass the time; whether it was all passed."""
        self.log("start")
        if self.kind in self.fake.get("die", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind in self.fake.get("raises", {}):
            kind = {"permanent": FormatError, "transient": RuntimeError}
            raise kind[self.fake["raises"][self.kind]]("as it was told")
        if self.kind in self.fake.get("reads", ()):
            self.context.files.path(self.network).read_bytes()
        if self.fake.get("grandchild"):
            subprocess.Popen(["sleep", "1000.5"])
        seconds = self.fake.get("seconds", {}).get(self.kind, 0)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.context.progress(self.kind, 1 - left / seconds, {"number": self.number})
            if self.context.should_stop() and self.kind not in self.fake.get("deaf", ()):
                break
            time.sleep(0.02)
        self.log("end")
        return bool(left <= 0)

    def put(self, content: str) -> str:
        full = self.fake.get("full", {}).get(self.kind)
        if full is not None and Path(full).exists():
            Path("/dev/full").write_text(content)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(content)
            file.flush()
            return self.context.files.put(Path(file.name))


def prepare(given: Values, context: Context) -> Values:
    run = Run("prepare", given, context)
    run.go()
    return {
        "baseline": {"top1": 0.9},
        "score": 0.9,
        "cost": {"macs": 100},
        "graph": "{}",
        "losses": None,
        "warnings": run.fake.get("warnings", []),
        "staircase": run.fake.get("staircase"),
    }


def advance(given: Values, context: Context) -> Values:
    run = Run("advance", given, context)
    run.go()
    trials = run.fake["trials"]
    state = given["state"] or {"next": 0, "told": []}
    told = state["told"] + [outcome["number"] for outcome in given["outcomes"]]
    assert len(set(told)) == len(told), "an outcome was told twice"
    last = min(trials, state["next"] + given["slots"])
    return {
        "state": {"next": last, "told": told},
        "proposals": [
            {
                "number": number,
                "plan": [10 - number % 10],
                "parent": None if number == 0 or 0 not in told else 0,
                "tuning_steps": 1,
                "tags": {},
            }
            for number in range(state["next"], last)
        ],
        "done": len(told) == trials,
        "fraction": len(told) / trials,
        "best": max(told, default=None),
        "needed": [],
    }


def evaluate(given: Values, context: Context) -> Values:
    proposal = given["proposal"]
    run = Run("evaluate", given, context, proposal["number"])
    run.go()
    if proposal["parent"] is not None:
        assert given["parent"]["outcome"]["number"] == proposal["parent"]
    return {
        "outcome": {
            "number": proposal["number"],
            "plan": proposal["plan"],
            "score": proposal["number"] / 100,
            "metrics": {"top1": proposal["number"] / 100}
            | {f"metric {number}": 0.5 for number in range(run.fake.get("bulk", 0))},
            "cost": {"macs": 50},
            "losses": None,
        },
        "kept": [list(range(proposal["plan"][0]))],
        "weights": run.put(f"weights of {given['inputs']['spec']['seed']}, {proposal['number']}"),
    }


def tune(given: Values, context: Context) -> Values:
    run = Run("tune", given, context)
    before = given["checkpoint"]
    done = 0 if before is None else int(context.files.path(before).read_text().split()[-1])
    whole = run.go()
    done += whole
    return {
        "done": done >= run.fake.get("slices", 1),
        "checkpoint": run.put(f"checkpoint of {given['inputs']['spec']['seed']} after {done}"),
        "history": [{"epoch": done}],
    }


def finalize(given: Values, context: Context) -> Values:
    run = Run("finalize", given, context)
    run.go()
    report = f"report of {given['inputs']['spec']['seed']} over {len(given['trials'])} trials"
    return {
        "artifacts": [
            {
                "name": "report.txt",
                "digest": run.put(report),
                "size_bytes": len(report),
                "media_type": "text/plain",
            }
        ],
        "summary": {"trials": len(given["trials"]), "winner": given["winner"]["outcome"]["number"]},
        "warnings": run.fake.get("late_warnings", []),
    }


def load(_settings: Settings) -> dict[str, Step]:
    return {
        "prepare": prepare,
        "advance": advance,
        "evaluate": evaluate,
        "tune": tune,
        "finalize": finalize,
    }


if __name__ == "__main__":
    main(sys.argv[1:], load)
