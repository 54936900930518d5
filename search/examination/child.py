"""The process that reads a stranger's file: it limits itself, looks, and prints a verdict.

    python -m search.examination.child network FILE CPU_S MEMORY_BYTES

Standard input is a pipe that the process does not outlive: its other end is its parent's alone.
The verdict is one JSON object: `name` and `description`, or the `code` and `message` of the error.
A limit that is met ends the process by a signal, or as `MemoryError`.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from search.examination.bounds import VERDICT_BYTES
from search.lifeline import end_with


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (most, most))


def _confine(cpu_s: float, memory_bytes: int) -> None:
    """No more than that, and no file of what was in memory."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)  # as RLIMIT_CPU, which counts whole seconds
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)


def _found(kind: str, path: Path) -> dict[str, Any]:
    """Name, if the file has one of its own, and description."""
    if kind == "network":
        from search.description import describe_network

        name, description = describe_network(path)
        return {"name": name, "description": description.model_dump(mode="json")}
    from search.evaluation.data import describe_dataset

    return {"name": None, "description": describe_dataset(path)}


def _verdict(kind: str, path: Path) -> dict[str, Any]:
    from espalier.format.errors import EspalierError

    try:
        return _found(kind, path)
    except EspalierError as error:
        return {"code": error.code, "message": str(error)}


def main() -> None:
    kind, path, cpu_s, memory_bytes = sys.argv[1:]
    _confine(float(cpu_s), int(memory_bytes))
    end_with(sys.stdin.fileno())
    try:
        text = json.dumps(_verdict(kind, Path(path)))
    except MemoryError:
        text = json.dumps({"exceeded": "memory"})
    if len(text) > VERDICT_BYTES:
        text = json.dumps({"exceeded": "verdict"})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
