"""A disk that fills up under a job, at each of its steps, and has room again after a while.

    python -m benchmarks.fulldisk            # as root, or: unshare -Urm python -m ...

Everything that the service writes (record, blobs, logs, temporary files) lies on a small file
system of its own, which is filled to its last byte when the record shows the first unit of a step
as claimed. That counts no attempt: the job succeeds with the plan of an undisturbed run. Writes
`benchmarks/results/fulldisk.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.boundaries import JOB, STEPS, as_undisturbed, gaps
from benchmarks.demo import prepare_digits
from benchmarks.faults import Disturbance, one_run
from benchmarks.record import save
from benchmarks.service import Service

ROOT = Path("var/fulldisk")
SIZE_MIB = 64
_LOOK_S = 0.005
_GIVE_UP_S = 300.0


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of `SIZE_MIB` MiB in memory, mounted there; needs the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={SIZE_MIB}m"
    subprocess.run([_program("mount"), "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([_program("umount"), folder], check=True)


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"there is no {name} on PATH"
    return found


def fill_at(step: str, seconds: float) -> Disturbance:
    """Fills the disk of the service's folder at that step, for that long."""

    def disturb(service: Service, data: Path, log: list[Any]) -> None:
        deadline = time.monotonic() + _GIVE_UP_S
        record = sqlite3.connect(f"file:{next(data.glob('*.db'))}?mode=ro", uri=True)
        query = "SELECT count(*) FROM work WHERE kind = ? AND state = 'claimed'"
        while not record.execute(query, (step,)).fetchone()[0]:
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_S)
        ballast = data / "ballast"
        said: set[str] = set()
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                _fill(ballast)  # again and again, since what failed has freed its room
                said |= _said(service)
                time.sleep(0.2)
        finally:
            ballast.unlink(missing_ok=True)
        log.append({"step": step, "full_s": seconds, "said": sorted(said)})
        record.close()

    return disturb


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def _said(service: Service) -> set[str]:
    """What the jobs wait for, or how the service answers instead."""
    try:
        with urllib.request.urlopen(f"{service.url}/v1/jobs", timeout=10) as answer:  # noqa: S310
            return {view["waiting_for"] for view in json.load(answer)["items"]} - {None}
    except urllib.error.HTTPError as error:
        return {f"HTTP {error.code}"}
    except OSError as error:
        return {type(error).__name__}


def attack(
    seconds: float = 45.0, *, steps: Sequence[str] = STEPS, folder: Path = ROOT
) -> dict[str, Any]:
    """Fill the disk once at every step; figures as JSON values.

    Args:
        seconds: for which it is full; by default longer than the lease, and than five attempts.
    """
    package, data, _digits = prepare_digits(folder)
    reference = one_run("undisturbed", package, data, None, job_spec=JOB, folder=folder)
    runs = []
    for step in steps:
        with small_disk(folder / "disk") as disk:
            before = os.environ.get("TMPDIR")
            temporary = disk / "tmp"
            temporary.mkdir()
            os.environ["TMPDIR"] = str(temporary)
            try:
                disturbance = fill_at(step, seconds)
                run = one_run(step, package, data, disturbance, job_spec=JOB, folder=disk)
            finally:
                os.environ.pop("TMPDIR")
                if before is not None:
                    os.environ["TMPDIR"] = before
            run["gaps"] = gaps(next((disk / step / "service").glob("*.db")))
            run["as_undisturbed"] = as_undisturbed(run, reference)
            runs.append(run)
            print(json.dumps(run), flush=True)
    return {
        "runs": len(runs),
        "as_undisturbed": sum(run["as_undisturbed"] for run in runs),
        "full_s": seconds,
        "size_mib": SIZE_MIB,
        "each": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0, help="for which the disk is full")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = attack(options.seconds, steps=options.steps)
    path = save("fulldisk", "benchmarks.fulldisk", figures)
    print(f"{figures['as_undisturbed']} of {figures['runs']} as undisturbed, written to {path}")
    if figures["as_undisturbed"] < figures["runs"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
