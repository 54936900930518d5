"""The header of an `.npy` file, read without evaluating it.

It is a Python dictionary as text, of which exactly three entries are taken: `descr`, the type as
one string, `fortran_order`, and `shape`, a tuple of numbers.
Source: NEP 1, "A simple file format for NumPy arrays"; numpy.lib.format.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from search.evaluation.errors import DatasetError

_MAGIC = b"\x93NUMPY"
_LONGEST = 10_000
_MOST_DIMS = 16
# Each alternative ends at a delimiter that it cannot hold: the time is that of one pass.
_ENTRY = re.compile(
    r"""\s*(?:'(?P<key>\w{1,20})'|"(?P<key2>\w{1,20})")\s*:\s*"""
    r"""(?:'(?P<text>[^']{0,200})'|"(?P<text2>[^"]{0,200})"|(?P<flag>True|False)"""
    r"""|\((?P<shape>[0-9L,\s-]*)\)|(?P<list>\[))\s*(?:,|\Z)?"""
)
_DESCR = re.compile(r"([<>=|]?)([a-zA-Z?])([0-9]{0,6})")
_NUMBER = re.compile(r"[0-9]{1,19}L?")
_NUMBERS = frozenset(
    {"b1", "?", *(f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)), "f2", "f4", "f8"}
)


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What an `.npy` file holds.

    Attributes:
        fortran: whether the first index runs fastest.
        start: bytes before the numbers.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(name: str, stream: IO[bytes]) -> NpyHeader:
    """Read the header at the beginning of a stream, which is then at the numbers.

    Args:
        name: of the array, for messages.
    Raises:
        DatasetError: malformed, or a type that is not read.
    """
    begin = stream.read(10)
    if begin[:6] != _MAGIC or len(begin) < 10:
        raise DatasetError(f"array {name!r} is no .npy file: write it with numpy.savez")
    version = (begin[6], begin[7])
    if version == (1, 0):
        length, start = int.from_bytes(begin[8:10], "little"), 10
    elif version == (2, 0):
        length, start = int.from_bytes(begin[8:10] + stream.read(2), "little"), 12
    else:
        raise DatasetError(f"array {name!r} has npy version {version}, which is not read: use 1.0")
    if length > _LONGEST:
        raise DatasetError(
            f"array {name!r} has a header of {length} bytes, above the limit of {_LONGEST}: "
            "store numbers of one type"
        )
    text = stream.read(length)
    if len(text) != length:
        raise _malformed(name)
    entries = _entries(name, text.decode("latin-1").strip())
    if entries.keys() != {"descr", "fortran_order", "shape"}:
        raise _malformed(name)
    return NpyHeader(
        _shape(name, entries["shape"]["shape"]),
        _flag(name, entries["fortran_order"]["flag"]),
        _dtype(name, entries["descr"]),
        start + length,
    )


def _malformed(name: str) -> DatasetError:
    return DatasetError(f"array {name!r} has a malformed header: write it with numpy.savez")


def _entries(name: str, text: str) -> dict[str, dict[str, str | None]]:
    if not (text.startswith("{") and text.endswith("}")):
        raise _malformed(name)
    body = text[1:-1].strip()
    found: dict[str, dict[str, str | None]] = {}
    at = 0
    while at < len(body):
        entry = _ENTRY.match(body, at)
        if entry is None:
            raise _malformed(name)
        parts = entry.groupdict()
        if parts["list"]:
            raise DatasetError(f"array {name!r} has a structured type: use numbers of one type")
        found[parts["key"] or parts["key2"] or ""] = parts
        at = entry.end()
        if at < len(body) and body[at - 1] != ",":
            raise _malformed(name)
    return found


def _flag(name: str, text: str | None) -> bool:
    if text is None:
        raise _malformed(name)
    return text == "True"


def _shape(name: str, text: str | None) -> tuple[int, ...]:
    if text is None:
        raise _malformed(name)
    parts = [part.strip() for part in text.split(",")]
    if parts[-1] == "":  # (3,) and ()
        parts.pop()
    if len(parts) > _MOST_DIMS or not all(_NUMBER.fullmatch(part) for part in parts):
        raise DatasetError(
            f"array {name!r} has the impossible shape ({text.strip()[:60]}): use at most "
            f"{_MOST_DIMS} dimensions, none of them negative"
        )
    return tuple(int(part.rstrip("L")) for part in parts)


def _dtype(name: str, entry: dict[str, str | None]) -> np.dtype[Any]:
    text = entry["text"] or entry["text2"] or ""
    found = _DESCR.fullmatch(text)
    if found is None:
        raise DatasetError(f"array {name!r} has the type {text[:60]!r}: use integers or floats")
    order, kind, width = found.groups()
    if kind == "O":
        raise DatasetError(
            f"array {name!r} holds Python objects, which are never loaded: "
            "convert it to numbers of one type"
        )
    if kind == "f" and width in ("12", "16"):
        raise DatasetError(
            f"array {name!r} has type float{int(width) * 8}, wider than the 64 bits that are read: "
            "store it as float32"
        )
    if kind in "US" and width.strip("0"):
        return np.dtype(f"{order}{kind}{int(width)}")
    if kind + width not in _NUMBERS:
        raise DatasetError(f"array {name!r} has the type {text!r}: use integers or floats")
    return np.dtype(order + kind + width)
