"""A disk that fills up under a job, at each of its steps, and has room again after a while.

Everything that the service writes (record, blobs, logs, temporary files) lies on a small file
system of its own, which is filled to its last byte when the record shows the first unit of a step
as claimed. That counts no attempt: the job succeeds with the plan of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.attack.jobs import GIVE_UP_S, LOOK_S, STEPS, Disturbance, Undisturbed, judged
from benchmarks.service import Service

SIZE_MIB = 64


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
        deadline = time.monotonic() + GIVE_UP_S
        record = sqlite3.connect(f"file:{next(data.glob('*.db'))}?mode=ro", uri=True)
        query = "SELECT count(*) FROM work WHERE kind = ? AND state = 'claimed'"
        while not record.execute(query, (step,)).fetchone()[0]:
            if time.monotonic() > deadline:
                return
            time.sleep(LOOK_S)
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


def attack(folder: Path, seconds: float) -> dict[str, Any]:
    """Fill the disk once at every step; figures as JSON values.

    Args:
        seconds: for which it is full.
    """
    undisturbed = Undisturbed(folder)
    runs = []
    for step in STEPS:
        with small_disk(folder / "disk") as disk, _temporary(disk / "tmp"):
            runs.append(undisturbed.beside(step, disk, fill_at(step, seconds)))
    return {"full_s": seconds, "size_mib": SIZE_MIB} | judged(runs)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Temporary files of processes that are started meanwhile lie there."""
    folder.mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
