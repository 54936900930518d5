"""Files to and from the service: hashed, continued where they broke off."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from espalier.connection import Connection, Json, checked, decoded
from espalier.errors import ApiError, DownloadCorrupt, Unreachable

_CHUNK = 1 << 20
_ANALYSIS_S = 600.0  # an upload is analysed before it is answered

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def sha256_of(path: Path) -> str:
    """In hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload(
    connection: Connection, url: str, path: Path, name: str | None, progress: Progress | None
) -> Json:
    """Send a file as a body; sending it again changes nothing, since its digest is announced."""
    digest, size = sha256_of(path), path.stat().st_size

    def send() -> httpx.Response:
        with path.open("rb") as file:
            return connection.http.post(
                url,
                params={"sha256": digest} | ({"name": name} if name else {}),
                content=_pieces(file, size, progress),
                headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                timeout=httpx.Timeout(connection.timeout_s, read=_ANALYSIS_S),
            )

    return decoded(connection.retried(lambda: checked(send())))


def fetch(
    connection: Connection, url: str, item: Json, folder: Path, report: Callable[[int], None]
) -> Path:
    """A result file, checked; what an earlier call left in `NAME.part` is continued.

    Args:
        item: its `name`, `size_bytes` and `sha256`.
        report: told the bytes that are there.
    Raises:
        DownloadCorrupt: the bytes do not match the digest, twice.
    """
    name: str = item["name"]
    digest: str = item["sha256"]
    if Path(name).name != name or name in ("", ".", ".."):
        raise DownloadCorrupt(f"the service names a result file {name!r}: refused")
    path, part = folder / name, folder / f"{name}.part"
    if path.is_file() and sha256_of(path) == digest:
        report(item["size_bytes"])
        return path
    for _ in range(2):  # what an earlier download left may be of another file: once more
        try:
            _complete(connection, url, item, part, report)
        except ApiError as error:
            if error.code != "blob.corrupt":
                raise
            part.unlink(missing_ok=True)
            raise DownloadCorrupt(f"{name} at {url}: {error}") from error
        if sha256_of(part) == digest:
            part.replace(path)
            return path
        part.unlink()
    raise DownloadCorrupt(
        f"{name} at {url} does not match its SHA-256 {digest}: "
        "the stored file is damaged; run the job again"
    )


def fetch_made(connection: Connection, url: str, path: Path, progress: Progress | None) -> Path:
    """A file that the service makes when it is asked for; kept if it is there and the same.

    Raises:
        DownloadCorrupt: the bytes do not match the digest that came with them.
    """
    part = path.with_name(f"{path.name}.part")
    known = {"If-None-Match": f'"{sha256_of(path)}"'} if path.is_file() else {}

    def once() -> Path:
        with connection.http.stream("GET", url, headers=known) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED:
                return path
            size = int(checked(response).headers["content-length"])
            have = 0
            path.parent.mkdir(parents=True, exist_ok=True)  # not where the answer is a refusal
            with part.open("wb") as file:
                for chunk in response.iter_raw():
                    have += file.write(chunk)
                    if progress is not None:
                        progress(have, size)
        if sha256_of(part) != _digest(response):
            raise DownloadCorrupt(f"{url} does not match its SHA-256: fetch it again")
        return part.replace(path)

    try:
        return connection.retried(once)
    finally:
        part.unlink(missing_ok=True)


def _digest(response: httpx.Response) -> str | None:
    """The SHA-256 that the service announced, in hex (RFC 9530)."""
    found = re.search("sha-256=:([^:]+):", response.headers.get("repr-digest", ""))
    return base64.b64decode(found.group(1)).hex() if found else None


def _complete(
    connection: Connection, url: str, item: Json, part: Path, report: Callable[[int], None]
) -> None:
    """Bring `part` to the file's full size; attempts count only while nothing arrives."""
    have = -1
    while True:
        try:
            return connection.retried(lambda: _continue(connection, url, item, part, report))
        except Unreachable:
            before, have = have, part.stat().st_size
            if have <= before:
                raise


def _continue(
    connection: Connection, url: str, item: Json, part: Path, report: Callable[[int], None]
) -> None:
    """Fetch what `part` lacks, over one connection."""
    size = item["size_bytes"]
    with part.open("ab") as file:
        have = file.tell()
        if have > size:
            have = file.truncate(0)
        headers = {}
        if have:
            headers = {"Range": f"bytes={have}-", "If-Range": f'"{item["sha256"]}"'}
        if have < size:
            with connection.http.stream("GET", url, headers=headers) as response:
                if checked(response).status_code != httpx.codes.PARTIAL_CONTENT:
                    have = file.truncate(0)
                for chunk in response.iter_raw():
                    have += file.write(chunk)
                    report(have)
    if have != size:
        raise httpx.RemoteProtocolError(f"{item['name']} ended at byte {have} of {size}")
    report(have)


def _pieces(file: BinaryIO, size: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    while piece := file.read(_CHUNK):
        done += len(piece)
        yield piece
        if progress is not None:
            progress(done, size)
