"""Requests that are too large, malformed, slow, or sent by a page of another site."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.attack.target import Target
from benchmarks.service import running

_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "multipart/form-data; boundary=x"}
_SENT = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nz\r\n--x--\r\n'


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        statuses: the answers that hold.
        content: the body; an iterator of pieces is sent chunked, without its length.
    """

    statuses: tuple[int, ...]
    method: str
    path: str
    headers: Mapping[str, str | bytes]
    content: Callable[[], bytes | Iterator[bytes]] = lambda: b""

    def send(self, client: httpx.Client) -> httpx.Response:
        headers = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in self.headers.items()
        ]
        return client.request(self.method, self.path, headers=headers, content=self.content())


def _spec(**fields: Any) -> bytes:
    given = {"network": "net_x", "dataset": "data_x", "budget": {"macs": "50%"}} | fields
    return json.dumps(given).encode()


def _large() -> bytes:
    return b'{"network": "' + b"a" * 90_000_000 + b'"}'


def _pieces() -> Iterator[bytes]:
    yield b'{"network": "'
    for _ in range(90):
        yield b"a" * 1_000_000
    yield b'"}'


def _fields() -> bytes:
    """A specification with millions of fields that there are not."""
    return b"{" + b",".join(b'"%d":1' % number for number in range(5_000_000)) + b"}"


def _post(status: int, content: Callable[[], bytes | Iterator[bytes]]) -> Request:
    return Request((status,), "POST", "/v1/jobs", _JSON, content)


REQUESTS: Mapping[str, Request] = {
    "90 MB of JSON": _post(413, _large),
    "90 MB of JSON in pieces": _post(413, _pieces),
    "JSON of 5,000,000 fields": _post(413, _fields),
    "JSON nested 500,000 deep": _post(400, lambda: b"[" * 500_000),
    "a name with a NUL": _post(422, lambda: _spec(name="a\0b")),
    "a name with a lone surrogate": _post(400, lambda: _spec(name="\ud800")),
    "a budget of 100,000 digits": _post(400, lambda: _spec().replace(b'"50%"', b"9" * 100_000)),
    "a cursor that is none": Request((400, 422), "GET", "/v1/jobs?cursor=" + "%00" * 50, {}),
    "an identifier of 30,000 characters": Request(
        (404, 422), "GET", "/v1/jobs/" + "a" * 30_000, {}
    ),
    "another host": Request((400, 421), "GET", "/v1/jobs", {"Host": "evil.example"}),
    "an upload from another site": Request(
        (403,), "POST", "/v1/networks", _FORM | {"Origin": "https://evil.example"}, lambda: _SENT
    ),
    "an upload from a sandboxed page": Request(
        (403,), "POST", "/v1/networks", _FORM | {"Origin": "null"}, lambda: _SENT
    ),
    "a cancel from another site": Request(
        (403,), "POST", "/v1/jobs/job_x/cancel", {"Sec-Fetch-Site": "cross-site"}
    ),
    "a range of 5,000 digits": Request(
        (200, 400, 416, 431), "GET", "/healthz", {"Range": "bytes=" + "9" * 5_000 + "-"}
    ),
    "a header that is no text": Request((200, 400), "GET", "/v1/jobs", {"Last-Event-ID": b"\xff"}),
    "an ETag of 10,000 characters": Request(
        (200, 400, 431), "GET", "/v1/jobs", {"If-None-Match": '"' * 10_000}
    ),
}
"""Requests by what is wrong with them."""


@contextlib.contextmanager
def _half_open(url: str, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Connections that begin a request and say no more."""
    address = urlsplit(url)
    made = []
    try:
        for _ in range(count):
            connection = socket.create_connection((address.hostname, address.port), timeout=10)
            connection.sendall(sent.replace(b"HOST", address.netloc.encode()))
            made.append(connection)
        yield made
    finally:
        for connection in made:
            connection.close()


CROWDS: Mapping[str, bytes] = {
    "half a header": b"POST /v1/jobs HTTP/1.1\r\nHost: HOST\r\nX-A: ",
    "half a body": b"POST /v1/jobs HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    "half an upload": b"POST /v1/networks HTTP/1.1\r\nHost: HOST\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\nPK",
}
"""What each of a crowd of connections sends before it falls silent."""


def _crowds(target: Target, count: int, dropped_s: float) -> list[dict[str, Any]]:
    """Many connections of each kind that fall silent, and a list asked for meanwhile.

    Args:
        dropped_s: after so long each has to be closed by the service.
    """
    found = []
    for name, sent in CROWDS.items():
        with _half_open(target.url, count, sent) as connections, target.client() as client:
            answer = target.attack(name, lambda: client.get("/v1/jobs"))
            end, dropped = time.monotonic() + dropped_s, 0
            for connection in connections:
                connection.settimeout(max(0.01, end - time.monotonic()))
                with contextlib.suppress(OSError):
                    while connection.recv(65_536):
                        pass
                    dropped += 1
        held = answer.held((200,)) and dropped == count
        found.append(answer.to_json() | {"connections": count, "dropped": dropped, "held": held})
    return found


def attack(root: Path, crowd: int, timeout_s: float) -> dict[str, Any]:
    """Send each request, then let crowds of connections fall silent.

    Args:
        crowd: connections of each kind.
        timeout_s: the service's own, of requests.
    """
    each = []
    settings = {"ESPALIER_CLIENT_TIMEOUT_S": str(timeout_s)}
    with running(root / "service", settings=settings) as service:
        target = Target(service)
        for name, request in REQUESTS.items():
            with target.client() as client:
                answer = target.attack(name, lambda: request.send(client))  # noqa: B023
            each.append({**answer.to_json(), "held": answer.held(request.statuses)})
            print(json.dumps(each[-1]), flush=True)
        crowds = _crowds(target, crowd, 6 * timeout_s)
    held = all(found["held"] for found in [*each, *crowds])
    return {"each": each, "crowds": crowds, "held": held}
