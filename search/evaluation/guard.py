"""Stops training where torch computes wrong gradients: one sweep for each build, its verdict kept.

The sweep (`search.evaluation.soundness`) takes about half a minute of a core. Its verdict is a file
in the user's cache folder, named by all that it depends on: the build of torch, the processor as
the build sees it, the number of threads, and the sweep itself. To have it before the first job:

    python -m search.evaluation.guard
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from espalier.format.errors import EspalierError
from search.evaluation.convolution_cases import LAYOUTS
from search.evaluation.soundness import findings

_SWEEP = 1  # to be raised when the cases or the forms that they run through change
_ISA = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")

_sound: set[str] = set()  # builds whose verdict this process has read


class UnsoundTorch(EspalierError):
    """A build of torch whose gradients are wrong on this machine."""

    code = "evaluation.torch"


def build() -> dict[str, Any]:
    """All that the verdict depends on, as JSON values."""
    return {
        "sweep": _SWEEP,
        "torch": torch.__version__,
        "git": torch.version.git_version,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": dict(torch.cpu.get_capabilities()),
        "limits": {name: os.environ[name] for name in _ISA if name in os.environ},
        "threads": sorted({1, 2, torch.get_num_threads()}),
    }


def verdicts() -> Path:
    """Where verdicts are kept: `espalier` in the user's cache folder, see `XDG_CACHE_HOME`."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "espalier"
    try:
        return Path.home() / ".cache" / "espalier"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"espalier-{os.getuid()}"


def require_sound(
    folder: Path | None = None, *, module: str = "search.evaluation.soundness"
) -> None:
    """See that this machine's torch trains rightly; cheap where that is known.

    Processes that ask at once wait for the first one's sweep. Where the folder cannot be written
    to, every process runs its own.

    Args:
        folder: of the verdicts, `verdicts()` by default.
        module: that sweeps, see `findings`.

    Raises:
        UnsoundTorch: it does not; names the build, the case and what can be done.
    """
    facts = build()
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    if name in _sound:
        return
    path = (verdicts() if folder is None else folder) / f"torch-{name}.json"
    found = _kept(path)
    if found is None:
        with _alone(path):
            found = _kept(path)
            if found is None:
                found = {"finding": _sweep(facts["threads"], module), "build": facts}
                _keep(path, found)
    if found["finding"] is not None:
        limits = "".join(f", {key}={value}" for key, value in facts["limits"].items())
        raise UnsoundTorch(
            f"torch {facts['torch']} (git {facts['git'][:10]}, {facts['capability']}{limits}) "
            f"computes wrong gradients on this machine, {found['finding']}: install another build "
            "of torch, or train nothing (finetune.epochs 0 and no tuning steps); to have it "
            f"checked again, delete {path}"
        )
    _sound.add(name)


def _sweep(threads: list[int], module: str) -> str | None:
    """The first finding, if there is one."""
    for layout in reversed(LAYOUTS):
        for count in threads:
            for finding in findings(layout, count, "guard", module=module):
                return str(finding)
    return None


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # not there, not readable, or damaged
        return None
    known = isinstance(found, dict) and isinstance(found.get("finding", 0), str | None)
    return found if known else None


def _keep(path: Path, found: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(found, file, indent=2)
            Path(partial).replace(path)
        finally:  # where the disk is full, say
            Path(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process is in here; a lock of the system, which ends with its process."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        require_sound()
    except UnsoundTorch as error:
        sys.exit(str(error))
