"""`espalier serve`: the whole service on one machine, as child processes of this one.

Redis, the API, a worker with its slots, and the reaper. Each is started again when it ends; all of
them end with this process, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from espalier.cli.console import errors_as_lines, fail, out
from espalier.cli.processes import Child, stop
from espalier.redis_server import RedisServer

_READY_S = 60.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  (all addresses, and the one shown)
_GIVE_UP = 4  # failures of one child before the service was ever ready


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        fail(f"cannot listen on {host}:{port} ({reason}): choose another with --port")
    sock.listen(128)
    return sock


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Two services on one folder would share its database and its Redis."""
    try:
        home.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{home} cannot be made ({error.strerror}): choose another folder with --data")
    with (home / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"another `espalier serve` uses {home}: stop it, or choose another --data")
        yield


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM; the second one ends this process at once."""
    event = threading.Event()

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _migrate(env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "migrations"]
    done = subprocess.run(  # noqa: S603  (our own command)
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        fail("".join(last))
    for line in done.stdout.splitlines():  # of folders that were open to others, say
        out.print(escape(line))


def _children(env: dict[str, str], home: Path, sock: socket.socket, workers: int) -> list[Child]:
    """In the order in which they start."""
    logs = home / "logs"
    logs.mkdir(exist_ok=True)
    python = [sys.executable, "-m"]
    found = []
    if not env.get("ESPALIER_REDIS_URL"):
        redis = RedisServer(home / "redis.sock")
        found.append(Child("redis", redis.command(), env=env, folder=logs))
    fd = sock.fileno()
    api = [*python, "api", "--fd", str(fd)]
    worker = [*python, "celery", "--app", "worker.app", "worker", "--pool", "threads"]
    worker += ["--concurrency", str(workers), "--loglevel", "INFO"]
    return [
        *found,
        Child("api", api, env=env, folder=logs, grace_s=8, sockets=[fd]),
        Child("worker", worker, env=env, folder=logs, grace_s=15),
        Child("reaper", [*python, "worker.reaper"], env=env, folder=logs),
    ]


def _lacking(url: str) -> str:
    """What the service says it waits for; empty if it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310  (ours)
            return ""
    except urllib.error.HTTPError as error:
        try:
            checks = json.load(error)["checks"]
        except (ValueError, KeyError):
            return str(error)
        return "; ".join(f"{name}: {state}" for name, state in checks.items() if state != "ok")
    except OSError as error:
        return str(error)


def _until_ready(children: list[Child], url: str, stopping: threading.Event) -> None:
    end = time.monotonic() + _READY_S
    while (lacking := _lacking(url)) and not stopping.wait(0.05):
        for child in children:
            child.watch()
            if child.failures >= _GIVE_UP:
                fail(f"{child.name} does not start; the end of its log:\n{child.last_lines()}")
        if time.monotonic() > end:
            logs = children[0].log.parent
            fail(f"the service is not ready after {_READY_S:g} s ({lacking}): see {logs}")


def _run(home: Path, host: str, port: int, workers: int) -> None:
    env = {**os.environ, "ESPALIER_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    if host not in _ANY:
        env["ESPALIER_HOSTS"] = f"{env.get('ESPALIER_HOSTS', '')},{host}"
    address = home / "url"
    address.unlink(missing_ok=True)
    sock = _listening(host, port)
    shown = _ANY.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{sock.getsockname()[1]}"
    children: list[Child] = []
    try:
        with _stop_requested() as stopping:
            _migrate(env)
            children = _children(env, home, sock, workers)
            for child in children:
                child.start()
            _until_ready(children, url, stopping)
            if not stopping.is_set():
                address.write_text(url + "\n")
                out.print(f"Espalier is at [bold]{url}[/] (documentation: {url}/docs)")
                out.print(f"files and logs are in {escape(str(home))}; Ctrl-C stops it")
            while not stopping.wait(0.2):
                for child in children:
                    if news := child.watch():
                        out.print(escape(news))
            out.print("stopping")
    finally:
        address.unlink(missing_ok=True)
        stop([child for child in children if child.name != "redis"])
        stop(children)  # Redis last: the others still talk to it
        sock.close()


def register(app: typer.Typer) -> None:
    @app.command()
    def serve(
        data: Annotated[
            Path,
            typer.Option(envvar="ESPALIER_HOME", help="Folder for the database, files and logs."),
        ] = Path("var/espalier"),
        host: Annotated[
            str,
            typer.Option(
                help="Address to listen on. There is no log-in: mind who reaches it. Other names "
                "that it is asked under go into ESPALIER_HOSTS."
            ),
        ] = "127.0.0.1",
        port: Annotated[
            int, typer.Option(min=0, max=65535, help="0 takes a free one; DATA/url says which.")
        ] = 8765,
        workers: Annotated[
            int, typer.Option(min=1, max=64, help="Trials that run at the same time.")
        ] = 1,
    ) -> None:
        """Run the whole service on this machine, until Ctrl-C."""
        os.umask(0o077)  # what it and its processes write is their owner's alone
        home = data.absolute()
        with errors_as_lines(), _alone(home):
            _run(home, host, port, workers)
