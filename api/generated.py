"""Files that the service makes when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Response
from fastapi.responses import StreamingResponse

from api.headers import file_headers, matches
from models.pieces import PIECE_BYTES


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
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def answer(generated: Generated, name: str, media_type: str, if_none_match: str | None) -> Response:
    """The file, which may be unlinked as soon as this returns; 304 if the client has it."""
    headers = file_headers(name, generated.digest)
    headers["Cache-Control"] = "private, no-cache"
    if if_none_match is not None and matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(generated.size_bytes)
    file = generated.path.open("rb")  # which outlives its name
    return StreamingResponse(_pieces(file), headers=headers, media_type=media_type)
