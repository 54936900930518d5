"""Headers of files: entity tags and byte ranges (RFC 9110, sections 8.8, 13 and 14), digests."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


def etag(value: str | int) -> str:
    return f'"{value}"'


def matches(header: str, tag: str) -> bool:
    """Whether an `If-None-Match` or `If-Match` header names that tag."""
    return header.strip() == "*" or tag in _TAG.findall(header)


def file_headers(name: str, digest: str) -> dict[str, str]:
    """Of a whole file to be saved; RFC 9530 for `Repr-Digest`, RFC 6266 for the name.

    Args:
        digest: SHA-256 of its bytes, in hex.
    """
    encoded = base64.b64encode(bytes.fromhex(digest)).decode()
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    return {
        "ETag": etag(digest),
        "Repr-Digest": f"sha-256=:{encoded}:",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''"
        + quote(name, safe=""),
        "X-Content-Type-Options": "nosniff",
    }


class NotSatisfiable(Exception):
    """A range that lies behind the end."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and byte after the last; `None` to send everything.

    What is malformed, in another unit or of several parts is ignored, as the standard allows.

    Raises:
        NotSatisfiable: no byte of it exists.
    """
    found = _RANGE.match((header or "").strip())
    if found is None or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise NotSatisfiable
    return start, stop
