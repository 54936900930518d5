"""Child processes that are kept running, and that never outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

LOG_BYTES = 10 * 2**20
"""A log that grows above this is put aside."""

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 30.0
_STEADY_S = 30.0  # alive for this long: the next end is a new trouble, not the old one
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child between fork and exec: the kernel ends it when the parent is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Child:
    """One command, restarted with growing pauses when it ends by itself.

    Args:
        name: for people, and of its log file.
        grace_s: from asking it to stop to killing it.
        sockets: file descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        grace_s: float = 5.0,
        sockets: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.grace_s = grace_s
        self.failures = 0
        self._command = list(command)
        self._env = dict(env)
        self._sockets = tuple(sockets)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._next = 0.0

    def start(self) -> None:
        self._started = time.monotonic()
        self._rotate()
        with self._opened() as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own commands)
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._sockets,
                start_new_session=True,  # Ctrl-C is for the parent, which stops them in order
                preexec_fn=_die_with_parent,  # the parent has one thread, so this is safe
            )

    def watch(self) -> str | None:
        """Start it again if it ended and its pause is over; a line for people if it just ended."""
        now = time.monotonic()
        self._rotate()
        if self._process is None:
            if now >= self._next:
                self.start()
            return None
        code = self._process.poll()
        if code is None:
            if now - self._started > _STEADY_S:
                self.failures = 0
            return None
        self._kill_group()
        self._process = None
        pause = min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2**self.failures)
        self.failures += 1
        self._next = now + pause
        return f"{self.name} ended ({_how(code)}); it starts again in {pause:g} s, see {self.log}"

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stopped(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started, now."""
        if self._process is not None:
            self._kill_group()
            self._process.wait()
            self._process = None

    def _opened(self) -> BinaryIO:
        """The log; nothing is kept where its disk takes no new file, and the process runs on."""
        try:
            return self.log.open("ab")
        except OSError:
            return Path(os.devnull).open("ab")

    def _rotate(self) -> None:
        """Keep the log below its cap: what is in it goes to `NAME.log.1`, in the place of that.

        The process goes on writing to the same file, at its new end, since it appends.
        """
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
                os.truncate(self.log, 0)

    def _kill_group(self) -> None:
        assert self._process is not None  # noqa: S101  (both callers have seen it)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        return ""


def stop(children: Sequence[Child]) -> None:
    """Stop them together, each within its grace."""
    began = time.monotonic()
    for child in children:
        child.ask_to_stop()
    for child in children:
        while not child.stopped() and time.monotonic() < began + child.grace_s:
            time.sleep(0.02)
        child.kill()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
