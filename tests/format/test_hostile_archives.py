"""Zip files from strangers: whatever two readers could understand differently is refused."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from benchmarks.attack.packages import MEMBERS, archive, sealed
from espalier.format.errors import CorruptPackage, FormatError
from espalier.format.package import read_package
from tests.format.handmade import refusal


def test_a_sound_package_by_hand_is_read(members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "sound.espalier"
    path.write_bytes(archive(sealed(members)))
    assert read_package(path).manifest.name == "Sequential"


def test_zip_tricks(members: dict[str, bytes], tmp_path: Path) -> None:
    sound = archive(members)
    end = sound.rindex(b"PK\5\6")
    directory = struct.unpack_from("<I", sound, end + 16)[0]

    def patched(at: int, value: bytes) -> bytes:
        return sound[:at] + value + sound[at + len(value) :]

    def renamed(old: str, new: str) -> dict[str, bytes]:
        return {new if name == old else name: data for name, data in members.items()}

    cases: dict[str, bytes] = {
        "compressed": archive(members, compression=zipfile.ZIP_DEFLATED),
        "bomb": archive(
            {**members, "weights.safetensors": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED
        ),
        "an extra file": archive({**members, "evil.py": b"import os"}),
        "a path trick": archive(renamed("graph.json", "../graph.json")),
        "an absolute path": archive(renamed("manifest.json", "/manifest.json")),
        "a missing file": archive({n: members[n] for n in MEMBERS[:2]}),
        "a prefix": b"#!/bin/sh\n" + sound,
        "a suffix": sound + b"more",
        "a comment": sound[:-2] + b"\4\0more",
        "central size": patched(directory + 24, struct.pack("<I", 2**31)),
        "both central sizes": patched(directory + 20, struct.pack("<II", 2**31, 2**31)),
        "zip64 size": patched(directory + 20, b"\xff" * 8),
        "local size": patched(22, struct.pack("<I", 1)),
        "local name": patched(30, b"xraph.json"),
        "local method": patched(8, b"\x08\0"),
        "offset": patched(directory + 42, struct.pack("<I", 5)),
        "encrypted": patched(directory + 8, b"\x01\0"),
        "symlink": patched(directory + 38, struct.pack("<I", 0o120777 << 16)),
        "folder": patched(directory + 38, struct.pack("<I", 0o040755 << 16)),
        "count": patched(end + 8, struct.pack("<HH", 9, 9)),
        "directory offset": patched(end + 16, struct.pack("<I", 2**31)),
        "truncated": sound[: len(sound) // 2],
        "empty": b"",
        "not a zip": b"\x80\x04pickle" * 100,
    }
    for name, data in cases.items():
        assert isinstance(refusal(data, tmp_path), FormatError), name
    twice = archive({**members})
    half = twice.replace(b"manifest.json", b"weights.safet"[:13])
    assert isinstance(refusal(half, tmp_path), FormatError)


def test_overlapping_members(members: dict[str, bytes], tmp_path: Path) -> None:
    """Two directory entries that point at one member's bytes."""
    sound = archive(members)
    directory = sound.rindex(b"PK\5\6")
    first = sound.index(b"PK\1\2")
    second = sound.index(b"PK\1\2", first + 4)
    assert second < directory
    shared = sound[: second + 42] + sound[first + 42 : first + 46] + sound[second + 46 :]
    assert "overlaps" in str(refusal(shared, tmp_path))


def test_flipped_bytes_do_not_match_the_digest(members: dict[str, bytes], tmp_path: Path) -> None:
    weights = bytearray(members["weights.safetensors"])
    weights[-1] ^= 1
    error = refusal(archive({**members, "weights.safetensors": bytes(weights)}), tmp_path)
    assert isinstance(error, CorruptPackage)
