"""Tar files from strangers, read from front to back; nothing is extracted.

The formats that tools write: V7, ustar, GNU (long names) and PAX (names and sizes). Links, devices
and sparse files are refused. A header costs one block, and what it may ask for is bounded, which
cannot be said of `tarfile`: it takes PAX headers of any size and copies global ones each time.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from search.evaluation.errors import DatasetError, DatasetTooLarge

BLOCK = 512
_LONG_HEADER = 2**16  # bytes of a long name or of PAX records
_MOST_HEADERS = 8  # of one member, its own the last: long names, PAX records, global ones


class Stream(Protocol):
    def read(self, count: int, /) -> bytes: ...
    def skip(self, count: int, /) -> int: ...


@dataclass(slots=True)
class Member:
    """A file or folder in a tar file; its content can be read once, before the next one comes.

    Attributes:
        name: with surrogates in the place of bytes that are not UTF-8.
        regular: whether it is a file; else a folder.
    """

    name: str
    size: int
    regular: bool
    _stream: Stream
    _taken: bool = False

    def read(self) -> bytes:
        """All of its bytes."""
        self._taken = True
        data = self._stream.read(self.size)
        _exactly(len(data), self.size)
        _exactly(self._stream.skip(-self.size % BLOCK), -self.size % BLOCK)
        return data

    def pass_over(self) -> None:
        """Go to the end of its bytes, if they were not read."""
        if not self._taken:
            padded = self.size + -self.size % BLOCK
            _exactly(self._stream.skip(padded), padded)


def _exactly(found: int, wanted: int) -> None:
    if found != wanted:
        raise DatasetError("the tar file ends early: send it again")


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 for sizes from 8 GiB."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise DatasetError("the tar file has a header with a malformed number: it is damaged")
    return int(digits or b"0", 8)


def _checked(block: bytes) -> None:
    """The sum of a header's bytes, with its own field taken as spaces."""
    rest = block[:148] + block[156:]
    wanted = _number(block[148:156])
    found = sum(rest) + 8 * 32
    # Some tools add signed bytes.
    if wanted != found and wanted != found - 256 * sum(byte > 127 for byte in rest):
        raise DatasetError("the tar file has a header whose checksum is wrong: it is damaged")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, bytes]:
    """PAX records, each `LENGTH KEY=VALUE` and a line feed."""
    found = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit() or not space - at + 3 < int(length) <= len(data) - at:
            raise DatasetError("the tar file has a malformed PAX header: it is damaged")
        key, equals, value = data[space + 1 : at + int(length) - 1].partition(b"=")
        if not equals:
            raise DatasetError("the tar file has a malformed PAX header: it is damaged")
        found[key.decode("utf-8", "replace")] = value
        at += int(length)
    return found


def _long(stream: Stream, size: int) -> bytes:
    if size > _LONG_HEADER:
        raise DatasetTooLarge(
            f"the tar file has a header of {size} bytes, above the limit of {_LONG_HEADER}: "
            "use shorter names and no extended attributes"
        )
    padded = size + -size % BLOCK
    data = stream.read(padded)
    _exactly(len(data), padded)
    return data[:size]


@dataclass(slots=True)
class _Said:
    """What the headers before a member say of it."""

    name: str | None = None
    size: int | None = None

    def take(self, records: dict[str, bytes]) -> None:
        if any(key.startswith("GNU.sparse") for key in records):
            raise DatasetError("the tar file holds a sparse file: pack it without --sparse")
        if "path" in records:
            self.name = records["path"].decode("utf-8", "surrogateescape")
        if "size" in records:
            digits = records["size"]
            if not digits.isdigit() or len(digits) > 19:
                raise DatasetError("the tar file has a malformed PAX header: it is damaged")
            self.size = int(digits)


def _name(block: bytes) -> str:
    name = _text(block[:100])
    # GNU tar keeps other things than a prefix in the last field.
    prefix = _text(block[345:500]) if block[257:265] == b"ustar\x0000" else ""
    return f"{prefix}/{name}" if prefix else name


def members(stream: Stream, max_members: int) -> Iterator[Member]:
    """The files and folders of a tar file in their order.

    Raises:
        DatasetError: damaged, links, devices, sparse files.
        DatasetTooLarge: more than `max_members`, or a member with many or long headers.
    """
    said = _Said()
    count = headers = 0
    while True:
        block = stream.read(BLOCK)
        if not block.strip(b"\0"):  # the end, which some tools leave out
            return
        _exactly(len(block), BLOCK)
        _checked(block)
        headers += 1
        if headers > _MOST_HEADERS:
            raise DatasetTooLarge(
                f"the tar file has a member with more than {_MOST_HEADERS} headers: pack it anew"
            )
        kind, size = block[156:157], _number(block[124:136])
        if kind == b"L":
            said.name = _text(_long(stream, size))
            continue
        if kind == b"x":
            said.take(_records(_long(stream, size)))
            continue
        if kind == b"g":
            if _records(_long(stream, size)).keys() & {"path", "size"}:
                raise DatasetError("the tar file has one name or size for all: it is damaged")
            continue
        name = _name(block) if said.name is None else said.name
        if kind not in (b"0", b"\0", b"7", b"5"):
            raise DatasetError(f"{name[:200]!r} is a link or device: store the file itself")
        count += 1
        if count > max_members:
            raise DatasetTooLarge(
                f"the tar file has more than {max_members} members: pack fewer files"
            )
        folder = kind == b"5" or (kind == b"\0" and name.endswith("/"))
        member = Member(name, size if said.size is None else said.size, not folder, stream)
        said, headers = _Said(), 0
        yield member
        member.pass_over()
