"""Receiving files: streamed to disk, hashed on the way, capped, never held in memory.

A file comes as the raw body (`application/octet-stream`, or no content type) or as the first file
of a form (`multipart/form-data`). Its SHA-256 may be announced, as `?sha256=` or as the header
`Repr-Digest` (RFC 9530) of a raw body, and is then checked.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Query, Request
from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from api.bodies import announced, drain
from api.dependencies import Service
from api.problems import Answers, Problem, responses
from models.incoming import Incoming, Stored

NAME = Annotated[
    str | None,
    Query(max_length=200, description="shown in lists; its own name if left out"),
]
DIGEST = Annotated[
    str | None,
    Query(pattern="^[0-9a-fA-F]{64}$", description="SHA-256 of the file, to be checked"),
]
_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
"""The body of an upload, for OpenAPI: it is read as a stream, which FastAPI cannot see."""

_CHUNK = 1 << 20
_FRAMING = 1 << 16  # what a form adds to its file: boundaries, part headers, short fields
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


def answers(view: type[BaseModel]) -> Answers:
    """What an upload may be answered with, for OpenAPI."""
    known = {"model": view, "description": "Already here"}
    return responses(400, 413, 415, 422, 507, also={200: known})


@dataclass(frozen=True, slots=True)
class Received:
    """A file that arrived whole, and is not in the blob store yet.

    Attributes:
        path: where it can be read; gone when the request is over.
        stored: its digest and size.
        name: what the client calls it, `None` if it did not say.
        file_name: of the form's file, without folders; `None` of a raw body.
    """

    path: Path
    stored: Stored
    name: str | None
    file_name: str | None
    _blob: Incoming

    def keep(self) -> Stored:
        """Put it into the blob store. Blocks: call it in a thread."""
        return self._blob.finish()


def too_large(limit: int) -> Problem:
    return Problem(
        413,
        "upload.too_large",
        f"the file is larger than {limit} bytes: send a smaller one, or raise "
        "ESPALIER_MAX_UPLOAD_BYTES of the service",
        limit_bytes=limit,
    )


def represented(request: Request) -> str | None:
    """The SHA-256 in the header `Repr-Digest`, hexadecimal; `Problem` if it is none."""
    found = _DIGEST.search(request.headers.get("repr-digest", ""))
    if found is None:
        return None  # other algorithms may be ignored (RFC 9530, section 3)
    try:
        digest = base64.b64decode(found.group(1), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise Problem(
            422,
            "upload.digest_invalid",
            "Repr-Digest must be sha-256=:BASE64: with 32 bytes: correct it or leave it out",
        )
    return digest.hex()


class _Sink:
    """Takes the file's bytes, and writes them in large pieces."""

    def __init__(self, blob: Incoming, limit: int) -> None:
        self._blob = blob
        self._limit = limit
        self._pending = bytearray()
        self._size = 0

    def take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise too_large(self._limit)
        self._pending += data

    @property
    def full(self) -> bool:
        return len(self._pending) >= _CHUNK

    def flush(self) -> None:
        """Blocks: call it in a thread."""
        self._blob.write(bytes(self._pending))
        self._pending.clear()


class _Form:
    """The first file of a multipart form; the other parts are passed over."""

    def __init__(self, boundary: bytes, sink: _Sink) -> None:
        self.name: str | None = None
        self.found = False
        self._sink = sink
        self._inside = False
        self._other = 0
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_part,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
            },
        )

    def feed(self, data: bytes) -> None:
        self._parser.write(data)

    def finish(self) -> None:
        self._parser.finalize()

    def _begin(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _start_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" in options and not self.found:
            self.found = self._inside = True
            self.name = options[b"filename"].decode("utf-8", "replace") or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self._sink.take(data[start:end])
            return
        self._other += end - start
        if self._other > _FRAMING:
            raise _malformed("the fields beside the file take too much: send only the file")

    def _end_part(self) -> None:
        self._inside = False


def _malformed(detail: str) -> Problem:
    return Problem(400, "upload.malformed", detail)


def _form(request: Request, sink: _Sink) -> _Form | None:
    """The form's reader, or `None` for a raw body."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise _malformed(
                "the form names no boundary in its content type: let your client set it"
            )
        return _Form(boundary, sink)
    if kind in (b"", b"application/octet-stream", b"application/zip", b"application/x-tar"):
        return None
    raise Problem(
        415,
        "upload.media_type",
        f"a file comes as application/octet-stream or in a multipart/form-data form, not as "
        f"{kind.decode('latin-1')}: correct the header Content-Type",
    )


async def _copy(request: Request, service: Service, sink: _Sink, form: _Form | None) -> None:
    async for chunk in request.stream():
        if form is None:
            sink.take(chunk)
        else:
            form.feed(chunk)
        if sink.full:
            await to_thread.run_sync(sink.flush, limiter=service.receivers)
    if form is not None:
        form.finish()
    await to_thread.run_sync(sink.flush, limiter=service.receivers)


def _base_name(name: str | None) -> str | None:
    """The last component, printable and short: it is shown to people, never used as a path."""
    if name is None:
        return None
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(char for char in last if char.isprintable())[:200] or None


@asynccontextmanager
async def receive(
    request: Request, service: Service, limit: int, *, name: str | None, sha256: str | None
) -> AsyncIterator[Received]:
    """The request's file, on disk while the context lasts; it stays only if `keep` is called.

    Args:
        limit: the most bytes to take.
        name: what the client calls it.
        sha256: goes before `Repr-Digest`.
    Raises:
        Problem: 413 above `limit`, 400 for a broken form, 415 for another media type, 422 for an
            empty file or one that does not match the announced digest.
        BlobError: the disk is full, say.
    """
    expected = sha256.lower() if sha256 else represented(request)
    with service.blobs.incoming() as blob:
        sink = _Sink(blob, limit)
        try:
            form = _form(request, sink)
            if announced(request.headers) > limit + (_FRAMING if form else 0):
                raise too_large(limit)
            await _copy(request, service, sink, form)
        except FormParserError as error:
            await drain(request.stream())
            raise _malformed(f"the form cannot be read ({error}): send it again") from error
        except Problem:
            await drain(request.stream())
            raise
        except ClientDisconnect as error:
            raise _malformed("the body ended early: send it again") from error
        stored = await to_thread.run_sync(blob.written, limiter=service.receivers)
        if form is not None and not form.found:
            raise _malformed("the form holds no file: add a part with a filename")
        if stored.size_bytes == 0:
            raise Problem(422, "upload.empty", "the file is empty: send its bytes as the body")
        if expected is not None and expected != stored.digest:
            raise Problem(
                422,
                "upload.digest_mismatch",
                f"the bytes that arrived have SHA-256 {stored.digest}, not {expected}: send again",
            )
        file_name = form.name if form else None
        yield Received(blob.path, stored, _base_name(name), _base_name(file_name), blob)
