"""Named arrays in `.npz` and safetensors files, their headers checked before anything is read."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from search.evaluation.archives import DataLimits, broken_means_dataset_error, open_zip
from search.evaluation.errors import DatasetError, DatasetTooLarge

Array = np.ndarray[Any, np.dtype[Any]]
_CHUNK = 2**22
_HEADER = 10_000
_NPY = np.lib.format


@dataclass(frozen=True, slots=True)
class Lazy:
    """An array that is not read yet; `read` gives it with exactly this shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _header(name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = _NPY.read_magic(stream)
    readers = {(1, 0): _NPY.read_array_header_1_0, (2, 0): _NPY.read_array_header_2_0}
    if version not in readers:
        raise DatasetError(f"array {name!r} has npy version {version}, which is not read")
    try:
        with warnings.catch_warnings():
            # Headers written by Python 2 are read all the same.
            warnings.simplefilter("ignore", UserWarning)
            shape, fortran, dtype = readers[version](stream, max_header_size=_HEADER)
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:
        raise DatasetError(f"array {name!r} has a malformed header") from error
    if dtype.hasobject:
        raise DatasetError(
            f"array {name!r} holds Python objects, which are never loaded: "
            "convert it to numbers of one type"
        )
    if dtype.kind not in "buifUS" or dtype.fields is not None or not dtype.itemsize:
        raise DatasetError(f"array {name!r} has dtype {dtype}: use integers or floats")
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise DatasetError(
            f"array {name!r} has dtype {dtype}, wider than the 64 bits that are read: "
            "store it as float32"
        )
    if len(shape) > 16 or any(dim < 0 for dim in shape):
        raise DatasetError(f"array {name!r} has the impossible shape {shape}")
    return shape, fortran, dtype


def _read_member(path: Path, name: str, limits: DataLimits) -> Array:
    with open_zip(path, limits) as archive, archive.open(f"{name}.npy") as stream:
        shape, fortran, dtype = _header(name, stream)
        flat = np.empty(math.prod(shape), dtype)
        into = flat.view(np.uint8).data.cast("B") if flat.size else memoryview(b"")
        at = 0
        while at < len(into):
            chunk = stream.read(min(_CHUNK, len(into) - at))
            if not chunk:
                raise DatasetError(f"array {name!r} ends after {at} of {len(into)} bytes")
            into[at : at + len(chunk)] = chunk
            at += len(chunk)
        stream.read(1)  # reaches the end, where the checksum is compared
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return np.ascontiguousarray(array).reshape(shape)


def npz_arrays(path: Path, limits: DataLimits) -> dict[str, Lazy]:
    """The arrays of an `.npz` file by name; nothing but headers is read.

    Raises:
        DatasetError: objects, structured types, headers that do not match the members' sizes.
        DatasetTooLarge: above a limit.
    """
    found: dict[str, Lazy] = {}
    with open_zip(path, limits) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                shape, _, dtype = _header(name, stream)
                start = stream.tell()
            if start + math.prod(shape) * dtype.itemsize != member.file_size:
                raise DatasetError(
                    f"array {name!r} claims shape {shape} of {dtype}, but its member has "
                    f"{member.file_size - start} bytes"
                )
            found[name] = Lazy(name, shape, dtype, partial(_read_member, path, name, limits))
    return found


_SAFE: Mapping[str, str] = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}


def _read_safe(path: Path, name: str) -> Array:
    with safe_open(path, framework="numpy") as file:
        return np.asarray(file.get_tensor(name))


def safetensors_arrays(path: Path, limits: DataLimits) -> tuple[dict[str, Lazy], tuple[str, ...]]:
    """The arrays of a safetensors file by name, and its classes (metadata `classes`, JSON list).

    Raises:
        DatasetError: a malformed file, or an element type that numpy does not have.
        DatasetTooLarge: above a limit.
    """
    found: dict[str, Lazy] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                view = file.get_slice(name)
                kind = view.get_dtype()
                if kind not in _SAFE:
                    raise DatasetError(f"array {name!r} has type {kind}: use float32")
                found[name] = Lazy(
                    name,
                    tuple(view.get_shape()),
                    np.dtype(_SAFE[kind]),
                    partial(_read_safe, path, name),
                )
    except SafetensorError as error:
        raise DatasetError(f"the safetensors file cannot be read: {error}") from error
    total = sum(array.nbytes for array in found.values())
    if total > limits.max_bytes:
        raise DatasetTooLarge(f"{total} bytes of data are above the limit of {limits.max_bytes}")
    with broken_means_dataset_error("the metadata field classes"):
        classes = json.loads(metadata.get("classes", "[]"))
        if not isinstance(classes, list):
            raise DatasetError("the metadata field classes must be a JSON list of names")
    return found, tuple(str(name) for name in classes)


def is_npz(path: Path, limits: DataLimits) -> bool:
    """Whether a zip file holds arrays rather than images."""
    with open_zip(path, limits) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)
