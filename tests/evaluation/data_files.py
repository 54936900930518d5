"""Dataset files as the tests write them."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]


def arrays(count: int = 12) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    return {
        "images": generator.integers(0, 256, (count, 8, 8, 3), np.uint8),
        "labels": np.arange(count) % 3,
    }


def png(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    colour = value if mode == "L" else (value, 0, 255 - value)
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # mode is a variable
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: Array, *, header: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    content = stream.getvalue()
    if header is None:
        return content
    padded = header + b" " * (117 - len(header)) + b"\n"
    body = content[10 + struct.unpack("<H", content[8:10])[0] :]
    return content[:8] + struct.pack("<H", len(padded)) + padded + body


def with_text(picture: bytes, text: bytes) -> bytes:
    """A PNG with compressed text before and after its pixels."""
    body = b"zTXt" + b"k\0\0" + zlib.compress(text, 9)
    chunk = struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body))
    return picture[:33] + chunk * 20 + picture[33:-12] + chunk * 20 + picture[-12:]
