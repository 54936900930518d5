"""A supervisor's end of a child process."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from models.settings import Settings
from worker.lifeline import kill_group


class ChildDied(Exception):
    """The child ended by itself; the message says how."""


class Child:
    """A running child and the connection to it.

    It leads a process group of its own, so that it can be killed with all that it started, and a
    Ctrl-C in the terminal reaches only the supervisor.
    """

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        """Start it.

        Args:
            command: what to run; the numbers of the inherited socket and pipe are appended.
        """
        ours, theirs = socket.socketpair()
        ending, lifeline = os.pipe()  # never written to: it ends with this process
        self._lifeline: int | None = lifeline
        threads = str(settings.torch_threads)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - arguments are ours
                [*command, str(theirs.fileno()), str(ending)],
                pass_fds=[theirs.fileno(), ending],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ
                | {
                    "OMP_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    # Threads that spin while they wait take the other children's cores.
                    "OMP_WAIT_POLICY": "passive",
                },
            )
        except OSError:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(ending)
        self._socket = ours
        self._shared: Mapping[str, Any] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"child-{self.pid}", daemon=True).start()
        self._send({"settings": settings.model_dump(mode="json")})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def call(self, step: str, shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Have it run a step; `receive` tells of it.

        Args:
            shared: the job's arguments; sent only if they are another object than the last ones.
        """
        if shared is not self._shared:
            self._send({"job": shared})
            self._shared = shared
        self._send({"run": step, "arguments": arguments})

    def stop(self) -> None:
        """Ask it to end its step at the next checkpoint."""
        self._send({"stop": True})

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Its next message, or `None` if none comes in time.

        Raises:
            ChildDied: it has ended.
        """
        try:
            message = self._messages.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if message is None:
            self.kill()
            raise ChildDied(_how(self._process.returncode))
        return message

    def kill(self) -> None:
        """Kill it and everything that it started, and wait for its end."""
        if self._lifeline is None:
            return
        kill_group(self.pid)
        os.close(self._lifeline)
        self._lifeline = None
        self._process.wait()
        self._socket.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # it has ended, as `receive` will tell

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._messages.put(json.loads(line))
        except (OSError, ValueError):
            pass  # killed in the middle of a line
        finally:
            self._messages.put(None)


def _how(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    hint = ", as when memory runs out" if status == -signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"
