"""Zip and tar files from strangers: members are listed and read within limits, never extracted."""

from __future__ import annotations

import errno
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from espalier.text import unfit
from search.evaluation import tar
from search.evaluation.errors import DatasetError, DatasetTooLarge
from search.evaluation.limits import DataLimits
from search.evaluation.unpacking import Unpacked

_END = struct.Struct("<4s4H2LH")  # zip end record; APPNOTE.TXT 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_DEEPEST = 32  # parts of a path

BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    struct.error,
    lzma.LZMAError,
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
            f"{what} cannot be read, it is damaged or not what it claims: {str(error)[:200]}"
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
    with broken_means_dataset_error("the zip file"), path.open("rb") as file:
        count, directory = _directory_size(file)
        if count > limits.max_files or directory > 512 * limits.max_files:
            raise DatasetTooLarge(
                f"the zip file lists {count} members, above the limit of {limits.max_files}: "
                "pack fewer files"
            )
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > limits.max_files:  # the end record may lie
                raise DatasetTooLarge(
                    f"the zip file lists {len(members)} members, above the limit of "
                    f"{limits.max_files}: pack fewer files"
                )
            _check_members(members)
            total = sum(member.file_size for member in members)
            limits.check_unpacked(path, total, "the zip file unpacks to")
            yield archive


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for member in members:
        name = member.filename
        if name in seen:
            raise DatasetError(f"the zip file holds {name[:200]!r} twice")
        seen.add(name)
        if member.flag_bits & 1:
            raise DatasetError(f"{name[:200]!r} is encrypted: store it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{name[:200]!r} is compressed by neither store nor deflate")


def safe_parts(name: str, limits: DataLimits, *, folder: bool) -> tuple[str, ...]:
    """The folders and the name of an archive's member.

    Raises:
        DatasetError: it is no text, or points out of the archive.
        DatasetTooLarge: it is too long.
    """
    if len(name) > limits.max_path:
        raise DatasetTooLarge(
            f"the archive holds the path {name[:60]!r}... of {len(name)} characters, above the "
            f"limit of {limits.max_path}: use shorter names"
        )
    if fault := unfit(name):  # also bytes that are not UTF-8
        raise DatasetError(f"the archive holds the path {name!r} with {fault}: use names in UTF-8")
    parts = name.split("/")
    if parts and parts[-1] == "":
        parts.pop()
    if parts and parts[0] == ".":  # `tar -cf x.tar .` writes ./a/b
        parts.pop(0)
    if len(parts) > _DEEPEST:
        raise DatasetError(
            f"the archive holds {name[:60]!r}... in {len(parts) - 1} folders: "
            f"use at most {_DEEPEST - 1}"
        )
    bad = any(part in ("", ".", "..") for part in parts) or not (parts or folder)
    if bad or "\\" in name or (len(name) > 1 and name[1] == ":"):
        raise DatasetError(f"the archive holds the path {name!r}: use plain relative paths")
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A regular file in an archive; `read` is valid until the iteration goes on.

    Attributes:
        parts: its folders and its name.
    """

    parts: tuple[str, ...]
    size: int
    read: Callable[[], bytes]

    @property
    def path(self) -> str:
        return "/".join(self.parts)


def _zip_files(path: Path, limits: DataLimits) -> Iterator[ArchiveFile]:
    with open_zip(path, limits) as archive:
        for member in archive.infolist():
            folder = member.filename.endswith("/")  # `is_dir` cannot be asked of an empty name
            parts = safe_parts(member.filename, limits, folder=folder)
            if folder:
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DatasetError(
                    f"{member.filename!r} is a link or device: store the file itself"
                )
            yield ArchiveFile(parts, member.file_size, partial(archive.read, member))


def _tar_files(path: Path, limits: DataLimits) -> Iterator[ArchiveFile]:
    with broken_means_dataset_error("the tar file"), path.open("rb") as file:
        stream = Unpacked(file, limits.unpacked_bytes(path))
        for member in tar.members(stream, limits.max_files):
            parts = safe_parts(member.name, limits, folder=not member.regular)
            if member.regular:
                yield ArchiveFile(parts, member.size, member.read)


def files(path: Path, kind: str, limits: DataLimits) -> Iterator[ArchiveFile]:
    """Every regular file of a `"zip"` or `"tar"` archive, in its order.

    Raises:
        DatasetError: links, devices, paths that point elsewhere, damaged bytes.
        DatasetTooLarge: above a limit.
    """
    return _zip_files(path, limits) if kind == "zip" else _tar_files(path, limits)
