"""A compressed stream from a stranger, unpacked in pieces and no further than a limit."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Protocol

from search.evaluation.errors import DatasetError, DatasetTooLarge

_PIECE = 2**16
_LZMA_MEMORY = 2**27  # xz -9 takes 65 MiB to unpack; a header may ask for 4 GiB


class _Decompressor(Protocol):
    """What `bz2` and `lzma` give."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the manners of the others: it keeps the input it did not use."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        # What filled its room may go on without more input.
        return not self._full and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(found) == max_length
        return found


def _unxz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)


_KINDS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", _Gunzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", _unxz),
)
COMPRESSED = tuple(magic for magic, _ in _KINDS)
"""What a compressed file begins with."""


class Unpacked:
    """A file's content, unpacked if it is compressed, read from its beginning to its end.

    Args:
        limit: bytes that may come out; more raise `DatasetTooLarge`.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit
        magic = file.read(6)
        file.seek(0)
        self._make = next((make for begin, make in _KINDS if magic.startswith(begin)), None)
        self._decompressor = self._make() if self._make else None
        self._came = 0
        self._ahead = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        pieces = []
        while count:
            piece = self._some(count)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> int:
        """Pass over bytes; how many there were."""
        left = count
        while left:
            piece = self._some(left)
            if not piece:
                break
            left -= len(piece)
        return count - left

    def _some(self, count: int) -> memoryview:
        """One to `count` bytes; none at the end."""
        if not self._ahead:
            data = self._next() if self._decompressor else self._file.read(_PIECE)
            self._came += len(data)
            if self._came > self._limit:
                raise DatasetTooLarge(
                    f"the file unpacks to more than {self._limit} bytes, the limit for its size: "
                    "store the data with less compression"
                )
            self._ahead = memoryview(data)
        piece, self._ahead = self._ahead[:count], self._ahead[count:]
        return piece

    def _next(self) -> bytes:
        """Some unpacked bytes; none at the end of the last stream."""
        assert self._decompressor is not None  # noqa: S101  (`_some` looks)
        while True:
            data = b""
            if self._decompressor.eof:
                # gzip, bzip2 and xz files may be several, one after the other.
                data = self._decompressor.unused_data or self._file.read(_PIECE)
                if not data.strip(b"\0"):  # padding, or the end
                    return b""
                assert self._make is not None  # noqa: S101  (there is a decompressor)
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                data = self._file.read(_PIECE)
                if not data:
                    raise DatasetError("the compressed file ends early: send it again")
            piece = self._decompressor.decompress(data, _PIECE)
            if piece:
                return piece
