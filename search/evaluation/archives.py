"""Zip and tar files from strangers: members are listed and read within limits, never extracted."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from search.evaluation.errors import DatasetError, DatasetTooLarge

GIB = 2**30


@dataclass(frozen=True, slots=True)
class DataLimits:
    """What a dataset may take.

    Attributes:
        max_bytes: of all its arrays in memory, and of all members of an archive, unpacked.
        max_files: members of an archive.
        max_ratio: unpacked to packed size of one member; holds for members above 16 MiB, since
            small constant arrays compress without bound.
        max_pixels: of one image.
    """

    max_bytes: int = 4 * GIB
    max_files: int = 500_000
    max_ratio: int = 200
    max_pixels: int = 2**26


LIMITS = DataLimits()
_RATIO_FROM = 16 * 2**20
_TAR_READ = 64 * 2**20  # the most that one tar header or member may ask for at once
_END = struct.Struct("<4s4H2LH")  # zip end record; APPNOTE.TXT 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15

BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    struct.error,
    lzma.LZMAError,
    tarfile.TarError,
    UnicodeError,
    NotImplementedError,  # zipfile's, for a compression that it does not know
    ValueError,
    SyntaxError,  # Pillow's, for malformed PNG chunks
)


@contextmanager
def broken_means_dataset_error(what: str) -> Iterator[None]:
    """Turn what the standard library raises on malformed bytes into a `DatasetError`.

    Errors of the system, such as a file that is gone or a disk that fails, say nothing of the
    bytes and stay what they are.
    """
    try:
        yield
    except DatasetError:
        raise
    except BROKEN as error:
        # EINVAL is a jump to before the file's start, which only malformed bytes ask for.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DatasetError(
            f"{what} cannot be read, it is damaged or not what it claims: {error}"
        ) from error


def _directory_size(file: IO[bytes]) -> tuple[int, int]:
    """Members and bytes of a zip's central directory, before anything of it is read."""
    length = file.seek(0, io.SEEK_END)
    tail_at = max(0, length - _END.size - 2**16)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise DatasetError("the zip file has no end record: it is damaged or was cut off")
    end = _END.unpack_from(tail, at)
    count, directory = end[4], end[5]
    locator_at = tail_at + at - _LOCATOR.size
    if locator_at >= 0:
        file.seek(locator_at)
        locator = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            file.seek(locator_at - _END64.size)
            large = _END64.unpack(file.read(_END64.size))
            count, directory = large[7], large[8]
    return count, directory


@contextmanager
def open_zip(path: Path, limits: DataLimits) -> Iterator[zipfile.ZipFile]:
    """A zip file whose member count, declared sizes and flags are within the limits.

    Raises:
        DatasetError: damaged, encrypted, or compressed in a way that is not understood.
        DatasetTooLarge: above a limit; raised before anything is unpacked.
    """
    with broken_means_dataset_error(f"zip file {path.name}"), path.open("rb") as file:
        count, directory = _directory_size(file)
        if count > limits.max_files or directory > 512 * limits.max_files:
            raise DatasetTooLarge(
                f"the zip file lists {count} members, above the limit of {limits.max_files}"
            )
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), limits)
            yield archive


def _check_members(members: list[zipfile.ZipInfo], limits: DataLimits) -> None:
    total = 0
    seen: set[str] = set()
    for member in members:
        if member.filename in seen:
            raise DatasetError(f"the zip file holds {member.filename!r} twice")
        seen.add(member.filename)
        if member.flag_bits & 1:
            raise DatasetError(f"{member.filename!r} is encrypted: store it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{member.filename!r} is compressed by neither store nor deflate")
        packed = max(member.compress_size, 1)
        if member.file_size > _RATIO_FROM and member.file_size > limits.max_ratio * packed:
            raise DatasetTooLarge(
                f"{member.filename!r} unpacks to {member.file_size // packed} times its packed "
                f"size, above the limit of {limits.max_ratio}: store it without compression"
            )
        total += member.file_size
    if total > limits.max_bytes:
        raise DatasetTooLarge(
            f"the zip file unpacks to {total} bytes, above the limit of {limits.max_bytes}"
        )


def safe_name(name: str) -> PurePosixPath:
    """The path of an archive's member; refuses names that point out of the archive."""
    parts = name.split("/")
    if parts and parts[-1] == "":
        parts.pop()
    if parts and parts[0] == ".":  # `tar -cf x.tar .` writes ./a/b
        parts.pop(0)
    bad = any(part in ("", ".", "..") for part in parts)
    if bad or "\\" in name or "\0" in name or (len(name) > 1 and name[1] == ":"):
        raise DatasetError(f"the archive holds the path {name!r}: use plain relative paths")
    return PurePosixPath(*parts)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A regular file in an archive; `read` is valid until the iteration goes on."""

    path: PurePosixPath
    size: int
    read: Callable[[], bytes]


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to yield more than `limit` bytes, or too many at once."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def _check(self, end: int) -> None:
        if end > self._limit:
            raise DatasetTooLarge(f"the tar file unpacks to more than {self._limit} bytes")

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _TAR_READ:
            raise DatasetTooLarge(f"the tar file holds a member above {_TAR_READ} bytes")
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET:
            raise DatasetError("the tar file cannot be read from its end")
        self._check(offset)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # typeshed: not an IO
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    return file


def _zip_files(path: Path, limits: DataLimits) -> Iterator[ArchiveFile]:
    with open_zip(path, limits) as archive:
        for member in archive.infolist():
            name = safe_name(member.filename)
            if member.is_dir():
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DatasetError(
                    f"{member.filename!r} is a link or device: store the file itself"
                )
            yield ArchiveFile(name, member.file_size, partial(archive.read, member))


def _tar_files(path: Path, limits: DataLimits) -> Iterator[ArchiveFile]:
    with broken_means_dataset_error(f"tar file {path.name}"), path.open("rb") as file:
        # Headers and padding come on top of the members' bytes.
        bounded = _Bounded(_unpacked(file), limits.max_bytes + 2048 * limits.max_files)
        total = 0
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for count, member in enumerate(archive):
                # Iterating would otherwise keep every header for the archive's life.
                archive.members = []  # type: ignore[attr-defined]  # not in typeshed
                if count >= limits.max_files:
                    raise DatasetTooLarge(f"the tar file has more than {limits.max_files} members")
                name = safe_name(member.name)
                total += member.size
                if total > limits.max_bytes:
                    raise DatasetTooLarge(
                        f"the tar file unpacks to more than {limits.max_bytes} bytes"
                    )
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DatasetError(
                        f"{member.name!r} is a link or device: store the file itself"
                    )
                stream = archive.extractfile(member)
                if stream is None:
                    raise DatasetError(f"{member.name!r} cannot be read")
                yield ArchiveFile(name, member.size, stream.read)


def files(path: Path, kind: str, limits: DataLimits) -> Iterator[ArchiveFile]:
    """Every regular file of a `"zip"` or `"tar"` archive, in its order.

    Raises:
        DatasetError: links, devices, paths that point elsewhere, damaged bytes.
        DatasetTooLarge: above a limit.
    """
    return _zip_files(path, limits) if kind == "zip" else _tar_files(path, limits)
