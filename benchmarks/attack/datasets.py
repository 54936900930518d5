"""Small data files that are dear to check, and files that lie about themselves."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image


def _npz(**arrays: np.typing.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _npy(header: str, data: bytes = b"") -> bytes:
    """An array file with any text for its header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _zip(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _safetensors(metadata: Mapping[str, str]) -> bytes:
    header = {
        "__metadata__": dict(metadata),
        "x": {"dtype": "U8", "shape": [4, 1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _text_chunks() -> bytes:
    """Sixty images of one pixel, each with 54 MB of text packed into a few hundred bytes."""
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000), 9))
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    tail = _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND", b"")
    image = head + text * 60 + tail
    return _zip({f"{'ab'[number % 2]}/{number}.png": image for number in range(60)})


def _many_members() -> bytes:
    image, buffer = _png(), io.BytesIO()
    with gzip.open(buffer, "wb", 9) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for number in range(50_000):
            info = tarfile.TarInfo(f"{'ab'[number % 2]}/{number}.png")
            info.size = len(image)
            archive.addfile(info, io.BytesIO(image))
    return buffer.getvalue()


def _sparse(count: int, seed: int) -> np.typing.NDArray[np.uint8]:
    """Mostly zeros, with noise enough to stay below any limit on how well data may be packed."""
    values = np.zeros(count, np.uint8)
    noise = np.random.default_rng(seed)
    for start in range(0, count, 1 << 20):
        values[start : start + (1 << 20) // 40] = noise.integers(0, 2, (1 << 20) // 40)[
            : count - start
        ]
    return values


def _labels() -> bytes:
    values = _sparse(200_000_000, 0)
    return _npz(x=values[:, None], y=values)


def _class_names(count: int) -> bytes:
    codes = np.full(count, ord("a"), "<u4")
    noise = np.random.default_rng(0)
    for start in range(0, count, 1 << 18):
        part = codes[start : start + (1 << 18) // 60]
        part[:] = noise.integers(ord("a"), ord("z"), len(part))
    values = np.array([0, 1, 0, 1], np.uint8)
    return _npz(x=values[:, None], y=values, class_names=codes.view("<U1"))


def _huge_images() -> bytes:
    head = b"\x89PNG\r\n\x1a\n"
    head += _chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    image = head + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b"")
    return _zip({"a/1.png": image, "b/1.png": image})


def _header(shape: str, descr: str = "|u1") -> bytes:
    return _zip({"x.npy": _npy(f"{{'descr':'{descr}','fortran_order':False,'shape':{shape}}}")})


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "60 images with packed text": _text_chunks,
    "tar.gz of 50,000 images": _many_members,
    "200 million labels": _labels,
    "50 million class names": lambda: _class_names(50_000_000),
    "1.2 million class names in a header": lambda: _safetensors(
        {"classes": json.dumps(["c"] * 1_200_000)}
    ),
    "images of 10 gigapixels": _huge_images,
    "60,000 empty members": lambda: _zip({f"a/{n}.png": b"" for n in range(60_000)}),
    "NaN": lambda: _npz(x=np.full((8, 1, 8, 8), np.nan, np.float32), y=np.arange(8) % 2),
    "class names with a NUL and a lone surrogate": lambda: _safetensors(
        {"classes": '["a\\u0000b", "\\ud800"]'}
    ),
    "class names nested 200,000 deep": lambda: _safetensors({"classes": "[" * 200_000}),
    "a class name of 100,000 digits": lambda: _safetensors({"classes": "[" + "9" * 100_000 + "]"}),
    "a shape of minus signs": lambda: _header("(" + "-" * 9_000 + "1,)"),
    "a shape of parentheses": lambda: _header("(" * 4_000 + ")" * 4_000),
    "a shape of 9,000 digits": lambda: _header("(" + "9" * 9_000 + ",0)"),
    "a shape that is a power": lambda: _header("(2**2**2**30,)"),
    "an element type of 3,000 parts": lambda: _header("(1,)", "i4," * 3_000),
}
"""Files by what is wrong with them or makes them dear; each is made when it is called."""

WELCOME = frozenset({"tar.gz of 50,000 images", "60 images with packed text"})
"""What has to be taken, since it is sound: CIFAR-10 may come like the first."""


def sound(source: random.Random) -> Mapping[str, bytes]:
    """Small files of each kind that are taken, as a start for mutations."""
    noise = np.random.default_rng(source.randrange(2**32))
    images = noise.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = (np.arange(40) % 4).astype(np.int64)
    folders: dict[str, bytes] = {}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            name = f"{'abcd'[labels[number]]}/{number}.png"
            folders[name] = buffer.getvalue()
            info = tarfile.TarInfo(name)
            info.size = len(folders[name])
            archive.addfile(info, io.BytesIO(folders[name]))
    header = {
        "x": {"dtype": "U8", "shape": [40, 8, 8], "data_offsets": [0, 2560]},
        "y": {"dtype": "I64", "shape": [40], "data_offsets": [2560, 2880]},
    }
    text = json.dumps(header).encode()
    tensors = struct.pack("<Q", len(text)) + text + images.tobytes() + labels.tobytes()
    return {
        "npz": _npz(x=images, y=labels),
        "zip": _zip(folders),
        "tar": tar.getvalue(),
        "safetensors": tensors,
    }
