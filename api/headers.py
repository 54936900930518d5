"""Headers of files: entity tags and byte ranges (RFC 9110, sections 8.8, 13 and 14), digests."""

from __future__ import annotations

import base64
import re
import sys
from urllib.parse import quote

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_DIGITS = 18  # more are beyond every file, and int() refuses thousands


def etag(value: str | int) -> str:
    return f'"{value}"'


def matches(header: str, tag: str) -> bool:
    """Whether an `If-None-Match` or `If-Match` header names that tag."""
    return header.strip() == "*" or tag in _TAG.findall(header)


def file_headers(name: str, digest: str) -> dict[str, str]:
    """Headers of a whole file to be saved; RFC 9530 for `Repr-Digest`, RFC 6266 for the name.

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


def _place(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else sys.maxsize


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and byte after the last; `None` to send everything.

    What is malformed, in another unit or of several parts is ignored, as the standard allows.

    Raises:
        NotSatisfiable: no byte of it exists.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - _place(last)), size
    else:
        start, stop = _place(first), min(size, _place(last) + 1) if last else size
        if last and _place(last) < start:
            return None
    if start >= stop:
        raise NotSatisfiable
    return start, stop
