"""Reading what clients send: within bounds of size and time, and JSON that is text throughout.

Only uploads are read by their routes, piece by piece. Every other body is read here, before its
route begins, and is small.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from anyio import to_thread
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from api.problems import Problem
from espalier.text import unfit

LIMIT_BYTES = 1 << 20
LIMIT_VALUES = 10_000  # of one JSON document: a job has less than a hundred
MIN_RATE = 500  # bytes/s, as mod_reqtimeout of Apache's server has it
DRAIN_BYTES = 1 << 24  # read this much of a refused body, so that the client can read the answer
_AT_ONCE = 1 << 14  # what is larger is parsed in a thread


def too_slow(limit_s: float) -> Problem:
    return Problem(
        408,
        "request.timeout",
        f"the body stopped for {limit_s:g} s, or came at less than {MIN_RATE} bytes/s: send it "
        "again, or have the operator raise ESPALIER_CLIENT_TIMEOUT_S",
        headers={"Connection": "close"},
    )


def in_time(receive: Receive, limit_s: float) -> Receive:
    """The same messages; `Problem` 408 if the body stops for `limit_s`, or is that much too late.

    The time counts while this waits for the client, not while the bytes are dealt with. What
    comes after the body, which is the end of the connection, may take as long as it wants.
    """
    waited_s, size, reading, late = 0.0, 0, True, False

    async def timed() -> Message:
        nonlocal waited_s, size, reading, late
        if late:
            return {"type": "http.disconnect"}
        if not reading:
            return await receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(limit_s, limit_s + size / MIN_RATE - waited_s)):
                message = await receive()
        except TimeoutError:
            late = True
            raise too_slow(limit_s) from None
        waited_s += time.monotonic() - began
        size += len(message.get("body", b""))
        reading = message.get("more_body", False)
        return message

    return timed


def announced(headers: Headers) -> int:
    """The bytes of the body as `Content-Length` has them; 0 if it does not say."""
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal()):
        return 0
    return int(length) if len(length) <= 18 else sys.maxsize


def has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or announced(headers) > 0


async def drain(pieces: AsyncIterator[bytes]) -> None:
    """Closing on a client that is still sending would destroy the answer on its way."""
    size = 0
    try:
        async for piece in pieces:
            size += len(piece)
            if size > DRAIN_BYTES:
                return
    except (Problem, ClientDisconnect, RuntimeError):  # too slow, gone, or at its end
        return


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def whole(receive: Receive, headers: Headers) -> bytes:
    """The body, of at most `LIMIT_BYTES`.

    Raises:
        Problem: 413 for a larger one, whatever `Content-Length` said; 400 if it ends early.
    """
    body, pieces = bytearray(), _pieces(receive)
    if announced(headers) > LIMIT_BYTES:
        if headers.get("expect", "").lower() != "100-continue":  # else it waits for our word
            await drain(pieces)
        raise _too_large()
    try:
        async for piece in pieces:
            body += piece
            if len(body) > LIMIT_BYTES:
                await drain(pieces)
                raise _too_large()
    except ClientDisconnect:
        detail = "the body ended early: send it again"
        raise Problem(400, "request.malformed", detail) from None
    return bytes(body)


def _too_large() -> Problem:
    return Problem(
        413,
        "request.too_large",
        f"the body is larger than {LIMIT_BYTES} bytes: only networks and datasets may be, at "
        "/v1/networks and /v1/datasets",
        headers={"Connection": "close"},
        limit_bytes=LIMIT_BYTES,
    )


def replayed(body: bytes, receive: Receive) -> Receive:
    """The messages of a request whose body was read already."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


# --- JSON ----------------------------------------------------------------------------------------


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text of a document with the path of its field. Raises: `Problem` 413."""
    count, waiting = 0, [("", value)]
    while waiting:
        path, value = waiting.pop()
        count += 1
        if count > LIMIT_VALUES:
            raise Problem(
                413,
                "request.too_large",
                f"the body holds more than {LIMIT_VALUES} values: GET /openapi.json describes what "
                "there may be",
                limit_values=LIMIT_VALUES,
            )
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            for key, each in value.items():
                yield f"{path}.{key}".strip("."), key
                waiting.append((f"{path}.{key}".strip("."), each))
        elif isinstance(value, list):
            waiting += [(f"{path}.{index}".strip("."), each) for index, each in enumerate(value)]


def _check_json(body: bytes) -> None:
    try:
        document = from_json(body)  # refuses half surrogate pairs, and what is nested deeply
    except ValueError as error:
        raise Problem(
            400,
            "request.malformed",
            f"the body is no JSON ({error}): send one JSON object as UTF-8",
        ) from None
    for path, text in _texts(document):
        if fault := unfit(text):
            raise unstorable(f"the body's {path!a}"[:120], fault)


def unstorable(where: str, fault: str) -> Problem:
    return Problem(422, "request.unstorable", f"{where} holds {fault}: leave it out")


async def check(body: bytes, headers: Headers) -> None:
    """Refuse a body that says to be JSON and cannot be taken.

    Raises:
        Problem: 400, 413 or 422.
    """
    if not body or "json" not in headers.get("content-type", "").lower():
        return
    if len(body) <= _AT_ONCE:
        _check_json(body)
    else:
        await to_thread.run_sync(_check_json, body)
