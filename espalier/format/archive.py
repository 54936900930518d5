"""The zip file around a package: exactly three members, stored, one after the other.

A strict reader of its own: whatever two zip readers could understand differently (prefixes, gaps,
overlaps, comments, extra fields, zip64, streamed sizes, links, folders) is refused.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from espalier.format.errors import CorruptPackage, FormatError, LimitExceeded

MEMBERS = ("graph.json", "weights.safetensors", "manifest.json")
"""In their order in the file; the manifest is last since it holds the others' digests."""

_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in the file."""

    offset: int
    size_bytes: int
    crc: int


def _malformed(reason: str) -> FormatError:
    return FormatError(f"not a package: {reason}; make it with espalier.pack")


def _exactly(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) != count:
        raise CorruptPackage(f"the file ends early: {count} bytes wanted at {offset}")
    return data


def _entry(name: bytes, header: tuple[int, ...]) -> tuple[str, int, int, int]:
    """Name, checksum, size and local offset of a central directory's entry."""
    system, flags, method = header[1] >> 8, header[3], header[4]
    crc, packed, size = header[7:10]
    extra, comment, disk = header[11:14]
    attributes, offset = header[15], header[16]
    if name not in (member.encode() for member in MEMBERS):
        raise _malformed(f"it holds {name[:_LONGEST_NAME]!r}")
    if flags or extra or comment or disk:
        raise _malformed(f"{name.decode()} has flags, extra fields or a comment")
    if method or packed != size:
        raise _malformed(f"{name.decode()} is compressed")
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFREG) or (system == 0 and attributes & 0x10):
        raise _malformed(f"{name.decode()} is no plain file")
    return name.decode(), crc, size, offset


def is_package(path: Path) -> bool:
    """Whether it claims to be one: a zip file that begins with a package's first member."""
    name = MEMBERS[0].encode()
    with path.open("rb") as file:
        found = file.read(_LOCAL.size + len(name))
    return found.startswith(b"PK\3\4") and found[_LOCAL.size :] == name


def read_members(file: BinaryIO, largest_bytes: int) -> dict[str, Member]:
    """Where the three members lie.

    Raises:
        LimitExceeded: the file is larger than allowed.
        CorruptPackage: it ends early.
        FormatError: it is no package.
    """
    total = file.seek(0, os.SEEK_END)
    if total > largest_bytes:
        raise LimitExceeded(f"the package has {total} bytes; the limit is {largest_bytes}")
    if total < _END.size:
        raise CorruptPackage("the file is too short for a package")
    end = _END.unpack(_exactly(file, total - _END.size, _END.size))
    signature, disk, first_disk, here, count, length, start, comment = end
    if signature != b"PK\5\6" or disk or first_disk or comment or here != count:
        raise _malformed("it is no zip file, or has a comment or several parts")
    if count != len(MEMBERS) or start + length != total - _END.size:
        raise _malformed(f"{count} members, or bytes that belong to none")
    if not _CENTRAL.size * count <= length <= (_CENTRAL.size + _LONGEST_NAME) * count:
        raise _malformed("its directory has an impossible length")
    directory = _exactly(file, start, length)
    members: dict[str, Member] = {}
    at, position = 0, 0
    for _ in range(count):
        if at + _CENTRAL.size > length:
            raise _malformed("its directory is cut off")
        header = _CENTRAL.unpack_from(directory, at)
        name = directory[at + _CENTRAL.size :][: header[10]]
        if header[0] != b"PK\1\2":
            raise _malformed("its directory is damaged")
        text, crc, size, offset = _entry(name, header)
        local_bytes = _LOCAL.size + len(name)
        if offset != position or text in members or offset + local_bytes + size > start:
            raise _malformed(f"{text} overlaps, leaves a gap or occurs twice")
        local = _LOCAL.unpack(_exactly(file, offset, _LOCAL.size))
        same = (b"PK\3\4", header[3], 0, crc, size, size, len(name), 0)
        if (local[0], local[2], local[3], *local[6:]) != same:
            raise _malformed(f"{text} has two different headers")
        if _exactly(file, offset + _LOCAL.size, len(name)) != name:
            raise _malformed(f"{text} has two different names")
        members[text] = Member(offset + local_bytes, size, crc)
        position = offset + local_bytes + size
        at += _CENTRAL.size + len(name)
    if at != length or position != start:
        raise _malformed("bytes that belong to no member")
    return members


def read_bytes(file: BinaryIO, offset: int, count: int) -> bytes:
    """Exactly `count` bytes.

    Raises:
        CorruptPackage: the file ends early.
    """
    return _exactly(file, offset, count)


def write_members(path: Path, members: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:
    """Write members (name, size, chunks) one after the other; the same bytes for the same input."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, size, chunks in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.file_size = size
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            with archive.open(info, "w") as target:
                for chunk in chunks:
                    target.write(chunk)


def sizes(members: Mapping[str, Member]) -> dict[str, int]:
    """Bytes of each member, by name."""
    return {name: member.size_bytes for name, member in members.items()}
