"""Uploads, event streams and long polls wait side by side, and hold up nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api import watching
from api.routes import trials
from api.study import write_study
from models.incoming import Incoming
from tests.api.fixtures import Running, fail
from tests.api.test_jobs import create

MANY = 45  # more than the threads that all requests share


@pytest.fixture
def opened(running: Running) -> Iterator[Any]:
    """Opens a connection, sends, and does not read: what is open is closed at the end."""
    address = urlsplit(running.url)
    with ExitStack() as stack:

        def send(request: str, body: bytes = b"") -> socket.socket:
            made = socket.create_connection((address.hostname, address.port), timeout=60)
            stack.enter_context(made)
            made.sendall(request.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            return made

        yield send


def told(waiting: socket.socket, words: bytes) -> None:
    """Read until the words come."""
    found = b""
    while words not in found:
        piece = waiting.recv(1 << 16)
        assert piece, found
        found += piece


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\nHost: localhost"


def test_each_kind_waits_for_itself_alone(
    http: httpx.Client, running: Running, spec: dict[str, Any], opened: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The disk hangs, so that uploads hold threads; polls and streams are told all the same."""
    job, other = create(http, spec)["id"], create(http, spec)["id"]
    written, release = Incoming.write, threading.Event()
    hanging: list[int] = []

    def hang(self: Incoming, data: bytes) -> None:
        hanging.append(1)
        assert release.wait(120)
        written(self, data)

    monkeypatch.setattr(Incoming, "write", hang)
    wrong = "0" * 64  # so that they end when they are written
    upload = f"POST /v1/datasets?sha256={wrong} HTTP/1.1\nHost: localhost\nContent-Length: 5"
    uploads = [opened(upload, b"12345") for _ in range(MANY)]
    half = [opened(upload, b"12") for _ in range(MANY)]
    polls = [opened(get(f"/v1/jobs/{job}?wait=60")) for _ in range(MANY)]
    streams = [opened(get(f"/v1/jobs/{job}/events")) for _ in range(MANY)]
    for stream in streams:
        told(stream, b"event: state")
    try:
        assert hanging
        assert http.get("/healthz").status_code == 200
        assert http.get(f"/v1/jobs/{other}").json()["state"] == "queued"
        assert http.post(f"/v1/jobs/{other}/cancel").json()["state"] == "canceled"
        fail(running.service, job, "x", "over")
        for waiting in polls:
            told(waiting, b'"state":"failed"')
        for stream in streams:
            told(stream, b'"to":"failed"')
    finally:
        release.set()
    for sent in uploads:
        told(sent, b"HTTP/1.1 422 ")
    assert half


def test_files_that_are_made_on_demand_hold_up_nothing_else(
    http: httpx.Client, running: Running, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making one takes seconds; what its clients no longer wait for is not made at all."""
    job, release = create(http, spec)["id"], threading.Event()
    made: list[Path] = []

    def slow(path: Path, *given: Any) -> None:
        made.append(path)
        assert release.wait(120)
        write_study(path, *given)

    monkeypatch.setattr(trials, "write_study", slow)
    address = urlsplit(running.url)
    with ExitStack() as stack:
        for _ in range(MANY):
            asking = socket.create_connection((address.hostname, address.port), timeout=60)
            stack.enter_context(asking).sendall(
                get(f"/v1/jobs/{job}/study").replace("\n", "\r\n").encode() + b"\r\n\r\n"
            )
        while not made:
            time.sleep(0.01)
        assert http.get(f"/v1/jobs/{job}").status_code == 200
    assert http.get("/healthz").status_code == 200
    release.set()
    assert http.get(f"/v1/jobs/{job}/study").status_code == 200
    assert len(made) < MANY / 2


def test_all_waits_together_ask_as_often_as_one(
    http: httpx.Client, running: Running, spec: dict[str, Any], opened: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    jobs = [create(http, spec)["id"] for _ in range(4)]
    asked: list[set[str]] = []
    look = watching._versions

    def counted(database: Any, names: Any) -> dict[str, tuple[int, bool]]:
        asked.append(set(names))
        return look(database, names)

    monkeypatch.setattr(watching, "_versions", counted)
    waiting = [opened(get(f"/v1/jobs/{jobs[n % 4]}?wait=60")) for n in range(40)]
    waiting += [opened(get(f"/v1/jobs/{jobs[n % 4]}/events")) for n in range(40)]
    end = time.monotonic() + 60
    while set(jobs) not in asked:
        assert time.monotonic() < end
        time.sleep(0.01)
    began, before = time.monotonic(), len(asked)
    while len(asked) < before + 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(asked) - before <= 1 + (time.monotonic() - began) / watching._PAUSE_S
    for job in jobs:
        fail(running.service, job, "x", "over")
    for each in waiting[:40]:
        told(each, b'"state":"failed"')
    assert all(names <= set(jobs) for names in asked[before:])


def test_nobody_waits_and_nothing_is_asked(
    http: httpx.Client, running: Running, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create(http, spec)["id"]
    assert http.get(f"/v1/jobs/{job}?wait=0.5").status_code == 200
    watch, end = running.service.watch, time.monotonic() + 60
    while watch._looking is not None and not watch._looking.done():
        assert time.monotonic() < end
        time.sleep(0.01)
    monkeypatch.setattr(watching, "_versions", None)
    assert http.get(f"/v1/jobs/{job}").status_code == 200


def test_a_database_that_is_away_ends_the_waits(
    http: httpx.Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("away"))

    job = create(http, spec)["id"]
    monkeypatch.setattr(watching, "_versions", away)
    assert http.get(f"/v1/jobs/{job}?wait=60").status_code == 503
