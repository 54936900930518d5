"""Bodies are bounded in size, in what they hold and in time, whatever the client announces."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from api import bodies
from tests.api.fixtures import Running, exchange, publish, serving
from tests.api.test_jobs import create
from tests.api.test_problems import problem

JSON = {"Content-Type": "application/json"}
OVER = bodies.LIMIT_BYTES + 1


def pieces(total: int) -> Iterator[bytes]:
    for at in range(0, total, 1 << 16):
        yield b" " * min(1 << 16, total - at)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate", "/v1/jobs/x/cancel", "/nowhere"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused(http: httpx.Client, path: str, announced: bool) -> None:
    content = b" " * OVER if announced else pieces(OVER)
    found = problem(http.post(path, content=content, headers=JSON), 413, "request.too_large")
    assert found["limit_bytes"] == bodies.LIMIT_BYTES


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_methods_without_bodies_take_no_large_ones(http: httpx.Client, method: str) -> None:
    answer = http.request(method, "/v1/jobs/x", content=pieces(OVER))
    problem(answer, 413, "request.too_large")


def test_the_largest_body_is_taken(http: httpx.Client, spec: dict[str, Any]) -> None:
    text = json.dumps(spec)
    content = text + " " * (bodies.LIMIT_BYTES - len(text))
    assert http.post("/v1/jobs/validate", content=content, headers=JSON).status_code == 200


def test_a_length_is_enough_to_be_refused(running: Running) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = exchange(running, head + b"Content-Length: %d\r\n\r\n" % 10**30)
    assert answer.startswith(b"HTTP/1.1 400 ")
    answer = exchange(running, head + b"Expect: 100-continue\r\nContent-Length: 9000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 "), "the client waits for a word before it sends"


MANY = b"{" + b",".join(b'"k%d":[]' % n for n in range(bodies.LIMIT_VALUES)) + b"}"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"[" * 500_000, 400, "request.malformed"),
        (b"[" * 500_000 + b"]" * 500_000, 400, "request.malformed"),
        (b'{"a":' * 150_000 + b"1" + b"}" * 150_000, 400, "request.malformed"),
        (b'{"budget":' * 150 + b"1" + b"}" * 150, 422, "request.invalid"),
        (MANY, 413, "request.too_large"),
        (b"[" + b"1," * 100_000 + b"1]", 413, "request.too_large"),
        (b'{"seed":' + b"9" * 5_000 + b"}", 400, "request.malformed"),
        (b'{"seed":' + b"9" * 4_000 + b"}", 422, "request.invalid"),
        ('{"name":"é"}'.encode("utf-16"), 400, "request.malformed"),
        (b'{"name":"\xff"}', 400, "request.malformed"),
        (b"\x00", 400, "request.malformed"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_strange_documents(http: httpx.Client, content: bytes, status: int, code: str) -> None:
    found = problem(http.post("/v1/jobs", content=content, headers=JSON), status, code)
    assert len(json.dumps(found)) < 50_000


def test_only_the_first_wrong_fields_are_told(http: httpx.Client) -> None:
    found = problem(
        http.post("/v1/jobs", json={f"k{n}": n for n in range(5_000)}), 422, "request.invalid"
    )
    assert len(found["errors"]) == 50
    assert "more)" in found["detail"]


def test_others_are_answered_while_a_body_is_parsed(
    http: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = threading.Event(), threading.Event()

    def slow(_: bytes) -> None:
        begun.set()
        assert released.wait(60)

    monkeypatch.setattr(bodies, "_check_json", slow)
    content = b'{"name":"' + b"x" * 100_000 + b'"}'
    with ThreadPoolExecutor(1) as threads, httpx.Client(base_url=running.url, timeout=60) as other:
        posted = threads.submit(other.post, "/v1/jobs", content=content, headers=JSON)
        assert begun.wait(60)
        assert http.get("/healthz").status_code == 200
        assert not posted.done()
        released.set()
        assert posted.result().status_code == 422


# --- time ----------------------------------------------------------------------------------------

LIMIT_S = 0.5


@pytest.fixture(scope="module")
def hasty(running: Running) -> Iterator[Running]:
    """The service with little patience."""
    settings = running.service.settings.model_copy(update={"client_timeout_s": LIMIT_S})
    with serving(settings) as other:
        yield other


@contextmanager
def connection(running: Running) -> Iterator[socket.socket]:
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as made:
        yield made


def until_closed(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection; a time-out of the socket fails."""
    found = b""
    try:
        while piece := sock.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n"
JOB = POST % (b"/v1/jobs", b"application/json")
UPLOAD = POST % (b"/v1/datasets", b"application/octet-stream")
FORM = POST % (b"/v1/datasets", b"multipart/form-data; boundary=B")
HALVES = {
    "nothing": (b"", b""),
    "an empty line": (b"\r\n", b""),
    "half a head": (JOB, b"HTTP/1.1 408 "),
    "half a body": (JOB + b'Content-Length: 100\r\n\r\n{"a":', b"HTTP/1.1 408 "),
    "no body": (JOB + b"Content-Length: 100\r\n\r\n", b"HTTP/1.1 408 "),
    "half a chunk": (JOB + b"Transfer-Encoding: chunked\r\n\r\n20\r\n{", b"HTTP/1.1 408 "),
    "a chunk's extension": (
        JOB + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 1000, b"HTTP/1.1 408 "
    ),
    "half an upload": (UPLOAD + b"Content-Length: 3000000\r\n\r\nabc", b"HTTP/1.1 408 "),
    "half a form": (FORM + b"Content-Length: 3000000\r\n\r\n--B\r\n", b"HTTP/1.1 408 "),
    "half of a refused body": (
        JOB + b"Content-Length: 9000000\r\n\r\n" + b" " * 1000, b"HTTP/1.1 413 "
    ),
    "half of what is posted nowhere": (
        POST % (b"/nowhere", b"x/y") + b"Content-Length: 9\r\n\r\n1", b"HTTP/1.1 408 "
    ),
}  # fmt: skip


@pytest.mark.parametrize("sent", HALVES)
def test_who_stops_in_the_middle_is_dropped(hasty: Running, sent: str) -> None:
    data, answer = HALVES[sent]
    with connection(hasty) as sock:
        sock.sendall(data)
        found = until_closed(sock)
    assert found[: len(answer)] == answer
    assert bool(found) == bool(answer)
    if answer.endswith(b" 408 ") and sent != "half a head":
        assert b'"code":"request.timeout"' in found


def test_who_stops_in_the_next_request_is_dropped(hasty: Running) -> None:
    with connection(hasty) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = b""
        while not first.endswith(b'{"status":"ok"}'):
            piece = sock.recv(1 << 16)
            assert piece, first
            first += piece
        assert first.startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"GET /")
        assert until_closed(sock).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", [True, False])
def test_who_drips_is_dropped(hasty: Running, monkeypatch: pytest.MonkeyPatch, head: bool) -> None:
    """A byte at a time, each of them before the limit."""
    monkeypatch.setattr(bodies, "MIN_RATE", 1000)
    with connection(hasty) as sock:
        sock.sendall(JOB if head else JOB + b"Content-Length: 1000\r\n\r\n")
        sock.settimeout(LIMIT_S / 10)
        found = b""
        for _ in range(1000):
            try:
                sock.sendall(b"x")
                found = sock.recv(1 << 16)
                break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("1000 bytes were taken one by one")
    assert found.startswith(b"HTTP/1.1 408 ") or not found


def test_who_takes_long_but_goes_on_is_served(hasty: Running) -> None:
    content = b'{"a":' + b" " * 4000 + b"1}"
    with connection(hasty) as sock:
        sock.sendall(JOB + b"Content-Length: %d\r\n\r\n" % len(content))
        for at in range(0, len(content), 200):
            sock.sendall(content[at : at + 200])
            time.sleep(LIMIT_S / 10)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 422 ")


def test_an_endless_head_is_refused(running: Running) -> None:
    with connection(running) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for _ in range(1000):
                sock.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert until_closed(sock)[:13] in (b"HTTP/1.1 431 ", b"")


CHUNKED = JOB + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("begin", [CHUNKED + b"0\r\n", CHUNKED + b"0\r\nA: ", CHUNKED + b"1;"])
@pytest.mark.parametrize("piece", [b"A: b\r\n" * 10_000, b"x" * 60_000])
def test_endless_trailers_and_extensions_are_refused(
    running: Running, begin: bytes, piece: bytes
) -> None:
    """They are no body, so that no limit of a body counts them; the parser keeps trailers."""
    with connection(running) as sock:
        sock.sendall(begin)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(piece * 1000)


def test_trailers_are_no_headers(running: Running) -> None:
    """The checks of headers are over when they come."""
    trailer = b"Repr-Digest: sha-256=:AAAA:\r\n"
    sent = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + trailer + b"\r\n"
    assert b'"dataset.invalid"' in exchange(running, sent)


def test_who_does_not_take_the_answer_is_dropped(
    hasty: Running, http: httpx.Client, spec: dict[str, Any]
) -> None:
    job, size = create(http, spec)["id"], 40_000_000
    publish(hasty.service, job, {"large": b"x" * size})
    ask = b"GET /v1/jobs/%s/artifacts/large HTTP/1.1\r\nHost: localhost\r\n\r\n" % job.encode()
    with connection(hasty) as sock:
        sock.sendall(ask)
        ours, end = sock.getsockname(), time.monotonic() + 60
        while any(each.raddr == ours for each in psutil.Process().net_connections("tcp")):
            assert time.monotonic() < end, "the service goes on holding the connection"
            time.sleep(0.05)
        assert len(until_closed(sock)) < size
