"""Files that the service makes when they are asked for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec

from anyio import to_thread
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.dependencies import Service
from api.headers import file_headers, matches
from models.pieces import PIECE_BYTES

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Generated:
    """A file that was written; its digest is the SHA-256 in hex."""

    path: Path
    digest: str
    size_bytes: int

    @classmethod
    def at(cls, path: Path) -> Generated:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, digest, path.stat().st_size)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


class _Closing(StreamingResponse):
    """A file, which is closed in the end, also if its client is gone before the first byte."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(_pieces(file), headers=headers, media_type=media_type)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def answer(generated: Generated, name: str, media_type: str, if_none_match: str | None) -> Response:
    """The file, which may be unlinked as soon as this returns; 304 if the client has it."""
    headers = file_headers(name, generated.digest)
    headers["Cache-Control"] = "private, no-cache"
    if if_none_match is not None and matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(generated.size_bytes)
    file = generated.path.open("rb")  # which outlives its name
    return _Closing(file, headers, media_type)


async def in_turn(
    request: Request,
    service: Service,
    make: Callable[P, Response],
    *given: P.args,
    **named: P.kwargs,
) -> Response:
    """What `make` answers in a thread, a few at once: the others wait without a thread.

    They take seconds of processor time. What its client no longer waits for is not made.
    """
    async with service.generators:
        if await request.is_disconnected():
            return Response(status_code=503)  # which nobody reads
        return await to_thread.run_sync(functools.partial(make, *given, **named))
