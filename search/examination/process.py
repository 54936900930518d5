"""Runs the examination of a file in a process of its own, and gives its verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from signal import SIGPROF, Signals
from typing import Any

from espalier.format.errors import EspalierError
from search.examination.bounds import VERDICT_BYTES, Bounds, Kind

_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""Variables that are passed on; others may be passwords, which nothing here needs."""


class Refused(EspalierError):
    """A file that cannot be used, with the code of the error that its examination ended with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooCostly(Refused):
    """A file whose examination met a limit: `network.too_costly` or `dataset.too_costly`."""

    def __init__(self, kind: Kind, found: str) -> None:
        super().__init__(
            f"{kind}.too_costly",
            f"the examination of this {kind} {found}: send a simpler or smaller one, or raise "
            "ESPALIER_EXAMINATION_CPU_S or ESPALIER_EXAMINATION_MEMORY_BYTES where it is examined",
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """What a file holds.

    Attributes:
        name: its own; `None` if it has none.
        description: JSON values.
    """

    name: str | None
    description: dict[str, Any]


class Examination:
    """The examination of one file, which runs from the start on.

    Args:
        path: of the file, which must stay there meanwhile.
    """

    def __init__(self, kind: Kind, path: Path, bounds: Bounds) -> None:
        self._kind = kind
        self._bounds = bounds
        self._late = False
        limits = [str(bounds.cpu_s), str(bounds.memory_bytes)]
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each takes address space
        self._process = subprocess.Popen(  # noqa: S603  (our own command)
            # Not from the folder that it is started in, which may hold a `search` of its own.
            [sys.executable, "-P", "-m", "search.examination.child", kind, str(path), *limits],
            env=env,
            stdin=subprocess.PIPE,  # never written to: it ends with this process
            stdout=subprocess.PIPE,
        )

    def verdict(self) -> Examined:
        """What it found. Blocks until then; to be called once.

        Raises:
            Refused: the file cannot be used.
            TooCostly: it took more than is allowed.
            RuntimeError: the process failed or was stopped; its standard error says why.
        """
        timer = threading.Timer(self._bounds.wall_s, self._end_late)
        timer.daemon = True
        timer.start()
        try:
            lifeline, output = self._process.stdin, self._process.stdout
            assert lifeline is not None and output is not None  # noqa: S101,PT018  (pipes, see above)
            with lifeline, output:
                text = output.read(VERDICT_BYTES + 1)
            status = self._process.wait()
        finally:
            timer.cancel()
            self.stop()
            self._process.wait()
        return self._judged(text, status)

    def stop(self) -> None:
        """End it, at once, if it still runs."""
        self._process.kill()

    def _end_late(self) -> None:
        self._late = True
        self.stop()

    def _judged(self, text: bytes, status: int) -> Examined:
        bounds = self._bounds
        if self._late:
            raise TooCostly(self._kind, f"took longer than the limit of {bounds.wall_s:.0f} s")
        if status == -SIGPROF:
            raise TooCostly(
                self._kind,
                f"took more than {bounds.cpu_s:.3g} s of processor time, the limit for a file of "
                "its size",
            )
        if status < 0:  # libraries that get no memory may abort
            raise TooCostly(self._kind, f"was ended by {Signals(-status).name}")
        if status > 0:
            raise RuntimeError(f"the examination of a {self._kind} ended with status {status}")
        found = json.loads(text)
        if exceeded := found.get("exceeded"):
            mib = (bounds.memory_bytes if exceeded == "memory" else VERDICT_BYTES) // 2**20
            what = "memory" if exceeded == "memory" else "description"
            raise TooCostly(self._kind, f"took more than {mib} MiB of {what}, the limit")
        if "code" in found:
            raise Refused(found["code"], found["message"])
        return Examined(found["name"], found["description"])
