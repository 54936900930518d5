"""The process that does the heavy work: `python -m worker.child`, started by a supervisor.

It stays warm between steps, never touches the database, and ends with its supervisor. Messages
are JSON lines over a socket that it inherits:

    supervisor  {"settings": {...}}                        once, first
                {"job": {...}}                             arguments of all steps until the next one
                {"run": "evaluate", "arguments": {...}}    one at a time
                {"stop": true}                             end the step at a checkpoint, if it can
    child       {"ready": true}
                {"progress": {"stage", "fraction", "facts"}}
                {"done": {...}, "seconds"}
                or {"failed": {"code", "message", "permanent", "waiting_for"}}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espalier.format.errors import EspalierError
from models import private
from models.blobs import BlobStore
from models.errors import BlobUnwritable
from models.settings import Settings
from models.waiting import waits_for
from worker.files import BlobFiles
from worker.lifeline import die_with_parent, guard, kill_group

_PROGRESS_S = 0.2  # between two reports; the supervisor writes down fewer still


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may use besides its arguments.

    Attributes:
        progress: reports (stage, fraction 0 to 1, facts).
        should_stop: whether the step should end at its next checkpoint.
    """

    files: BlobFiles
    progress: Callable[[str, float, Mapping[str, Any]], None]
    should_stop: Callable[[], bool]


Step = Callable[[Mapping[str, Any], Context], Mapping[str, Any]]
"""(arguments, context) to result; JSON values both."""


class _Channel:
    """The child's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        # Two files, which hold it open: one for both directions drops, when it is written to, the
        # lines that were read ahead.
        with socket.socket(fileno=descriptor) as connection:
            self._received = connection.makefile("r", encoding="utf-8")
            self._sent = connection.makefile("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._reported_s = 0.0
        self.stop = threading.Event()
        self.calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, allow_nan=False)
        with self._lock:
            self._sent.write(line + "\n")
            self._sent.flush()

    def progress(self, stage: str, fraction: float, facts: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._reported_s >= _PROGRESS_S or fraction >= 1:
            self._reported_s = now
            report = {"stage": stage, "fraction": fraction, "facts": dict(facts)}
            self.send({"progress": report})

    def read(self) -> None:
        """Takes in messages until the supervisor is gone, then ends everything."""
        try:
            for line in self._received:
                message = json.loads(line)
                if "stop" in message:
                    self.stop.set()
                else:
                    self.stop.clear()
                    self.calls.put(message)
        finally:
            kill_group(os.getpgrp())


def _failure(error: Exception) -> dict[str, Any]:
    known = isinstance(error, EspalierError)
    waiting_for = waits_for(error)
    passes = waiting_for is not None or isinstance(error, BlobUnwritable)
    return {
        "code": error.code if isinstance(error, EspalierError) else "worker.error",
        "message": str(error) if known else f"{type(error).__name__}: {error}",
        "permanent": known and not passes,
        "waiting_for": waiting_for,
    }


def main(arguments: Sequence[str], load_steps: Callable[[Settings], Mapping[str, Step]]) -> None:
    """Run steps until the supervisor ends; never returns.

    Args:
        arguments: of the command line: the numbers of the socket to the supervisor, and of the
            pipe that ends with it.
        load_steps: gives the steps by name; called once, after the ties to the supervisor are
            made, and imports what is slow to import.
    """
    private.begin()
    if os.getpgrp() != os.getpid():
        os.setsid()
    descriptor, lifeline = map(int, arguments)
    guard(lifeline, descriptor)
    channel = _Channel(descriptor)
    signal.signal(signal.SIGTERM, lambda *_: channel.stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    threading.Thread(target=channel.read, name="lifeline", daemon=True).start()

    settings = Settings.model_validate(channel.calls.get()["settings"])
    files = BlobFiles(
        BlobStore.open(settings.blob_url), settings.cache_folder, settings.cache_bytes
    )
    context = Context(files, channel.progress, channel.stop.is_set)
    steps = load_steps(settings)
    channel.send({"ready": True})
    job: dict[str, Any] = {}
    while True:
        call = channel.calls.get()
        if "job" in call:
            job = call["job"]
            continue
        began = time.perf_counter()
        try:
            result = steps[call["run"]]({**job, **call["arguments"]}, context)
            answer = {"done": result, "seconds": time.perf_counter() - began}
        except Exception as error:  # whatever a step raises is the supervisor's to judge
            with contextlib.suppress(OSError):  # the log's disk is full, say
                traceback.print_exc()
            answer = {"failed": _failure(error)}
        channel.send(answer)


def _engine_steps(settings: Settings) -> Mapping[str, Step]:
    from worker.engine_steps import load

    return load(settings)


if __name__ == "__main__":
    main(sys.argv[1:], _engine_steps)
