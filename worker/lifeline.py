"""Ties a process to the life of the one that started it, so that none is left over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def guard(lifeline: int, *close: int) -> None:
    """Fork a process that only waits for the supervisor's end and then kills the whole group.

    It also gets those that this process has started, which `die_with_parent` cannot, and works
    while this process is stuck outside Python. To be called before there are threads.

    Args:
        lifeline: reading end of a pipe whose other end only the supervisor has; closed here.
        close: what the new process must not keep open.
    """
    if os.fork() != 0:
        os.close(lifeline)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in close:
        os.close(descriptor)
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; Linux only."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def kill_group(leader: int) -> None:
    """Kill a process that leads its own group, and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
