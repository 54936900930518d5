"""Named arrays in `.npz` and safetensors files: headers are read first, numbers in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from espalier.format import strict_json
from espalier.format.errors import FormatError
from search.evaluation.archives import broken_means_dataset_error, open_zip
from search.evaluation.class_names import class_names
from search.evaluation.errors import DatasetError, DatasetTooLarge
from search.evaluation.limits import DataLimits
from search.evaluation.npy_header import NpyHeader, read_npy_header

Array = np.ndarray[Any, np.dtype[Any]]
PIECE_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Lazy:
    """An array that is not read yet.

    Attributes:
        pieces: its numbers in the order of the file, `(k,)` at a time, read as they are asked for.
        fortran: whether the first index runs fastest in that order, else the last.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterator[Array]]
    fortran: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, pieces: Iterator[Array] | None = None) -> Array:
        """The whole array.

        Args:
            pieces: those of this array on their way through something else.
        """
        flat = np.empty(math.prod(self.shape), self.dtype)
        at = 0
        for piece in self.pieces() if pieces is None else pieces:
            flat[at : at + len(piece)] = piece
            at += len(piece)
        array = flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)
        return np.ascontiguousarray(array).reshape(self.shape)

    def place(self, number: int) -> tuple[int, ...]:
        """The index of a number by its place in the order of the file."""
        shape = self.shape[::-1] if self.fortran else self.shape
        index = tuple(int(i) for i in np.unravel_index(number, shape))
        return index[::-1] if self.fortran else index

    @classmethod
    def of(cls, name: str, array: Array) -> Lazy:
        """An array that is there."""
        return cls(name, array.shape, array.dtype, lambda: iter((array.reshape(-1),)))


def _pieces(name: str, stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> Iterator[Array]:
    """`count` numbers from where the stream is."""
    most = max(1, PIECE_BYTES // dtype.itemsize)
    while count:
        wanted = min(count, most) * dtype.itemsize
        data = stream.read(wanted)
        if len(data) != wanted:
            raise DatasetError(f"array {name!r} ends early: send the file again")
        count -= wanted // dtype.itemsize
        yield np.frombuffer(data, dtype)


# --- .npz ---------------------------------------------------------------------------------------


def _npz_pieces(path: Path, name: str, header: NpyHeader, limits: DataLimits) -> Iterator[Array]:
    with open_zip(path, limits) as archive, archive.open(f"{name}.npy") as stream:
        stream.seek(header.start)
        yield from _pieces(name, stream, math.prod(header.shape), header.dtype)
        stream.read(1)  # reaches the end, where the checksum is compared


def npz_arrays(path: Path, limits: DataLimits) -> dict[str, Lazy]:
    """The arrays of an `.npz` file by name; nothing but headers is read.

    Raises:
        DatasetError: objects, structured types, headers that do not match the members' sizes.
        DatasetTooLarge: above a limit.
    """
    found: dict[str, Lazy] = {}
    with open_zip(path, limits) as archive:
        members = archive.infolist()
        _check_count(len(members), limits)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                header = read_npy_header(name[:200], stream)
            if header.start + header.nbytes != member.file_size:
                raise DatasetError(
                    f"array {name[:200]!r} claims shape {header.shape} of {header.dtype}, but its "
                    f"member has {member.file_size - header.start} bytes"
                )
            read = partial(_npz_pieces, path, name, header, limits)
            found[name] = Lazy(name, header.shape, header.dtype, read, header.fortran)
    return found


def _check_count(count: int, limits: DataLimits) -> None:
    if count > limits.max_arrays:
        raise DatasetTooLarge(
            f"the file holds {count} arrays, above the limit of {limits.max_arrays}: keep those of "
            "the inputs, labels and class names"
        )


def is_npz(path: Path, limits: DataLimits) -> bool:
    """Whether a zip file holds arrays rather than images."""
    with open_zip(path, limits) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


# --- safetensors --------------------------------------------------------------------------------

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


def _json(text: str | bytes, what: str) -> Any:
    try:
        return strict_json.loads(text, what=what)
    except FormatError as error:
        raise DatasetError(str(error)[:300]) from None


def _safe_pieces(path: Path, lazy_at: int, name: str, count: int, kind: str) -> Iterator[Array]:
    with path.open("rb") as stream:
        stream.seek(lazy_at)
        yield from _pieces(name, stream, count, np.dtype(_SAFE[kind]))


def _safe_header(path: Path, limits: DataLimits) -> tuple[dict[str, Any], int, int]:
    """The header's entries, where the numbers begin, and how many bytes of them there are."""
    with broken_means_dataset_error("the safetensors file"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > limits.max_header_bytes:
            raise DatasetTooLarge(
                f"the safetensors header has {length} bytes, above the limit of "
                f"{limits.max_header_bytes}: leave out metadata other than classes"
            )
        text = file.read(length)
        if len(text) != length:
            raise DatasetError("the safetensors file ends in its header: send it again")
        entries = _json(text, "the safetensors header")
        if not isinstance(entries, dict):
            raise DatasetError("the safetensors header is no object: write it with safetensors")
        return entries, 8 + length, path.stat().st_size - 8 - length


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and where a tensor begins and ends."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise DatasetError(f"array {name!r} has a malformed entry in the safetensors header")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise DatasetError(f"array {name!r} has a malformed shape or place in the header")
    if not isinstance(kind, str) or len(shape) > 16 or len(offsets) != 2:
        raise DatasetError(f"array {name!r} has a malformed entry in the safetensors header")
    if kind not in _SAFE:
        raise DatasetError(f"array {name!r} has type {kind[:20]}: use float32")
    return kind, tuple(shape), offsets[0], offsets[1]


def safetensors_arrays(path: Path, limits: DataLimits) -> tuple[dict[str, Lazy], tuple[str, ...]]:
    """The arrays of a safetensors file by name, and its classes (metadata `classes`, JSON list).

    Raises:
        DatasetError: a malformed file, or an element type that numpy does not have.
        DatasetTooLarge: above a limit.
    """
    entries, start, size = _safe_header(path, limits)
    metadata = entries.pop("__metadata__", {})
    _check_count(len(entries), limits)
    found: dict[str, Lazy] = {}
    spans: list[tuple[int, int]] = []
    for long_name, entry in entries.items():
        name = long_name[:200]
        kind, shape, begin, end = _entry(name, entry)
        dtype = np.dtype(_SAFE[kind])
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise DatasetError(
                f"array {name!r} claims shape {shape} of {dtype}, but has {end - begin} bytes"
            )
        spans.append((begin, end))
        pieces = partial(_safe_pieces, path, start + begin, name, math.prod(shape), kind)
        found[long_name] = Lazy(long_name, shape, dtype, pieces)
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise DatasetError("arrays of the safetensors file overlap or leave a gap")
        at = end
    if at != size:
        raise DatasetError(f"the safetensors file has {size} bytes of numbers, not {at}")
    return found, _safe_classes(metadata, limits)


def _safe_classes(metadata: object, limits: DataLimits) -> tuple[str, ...]:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("classes", "[]"), str):
        raise DatasetError("the safetensors metadata must be text for each key")
    classes = _json(metadata.get("classes", "[]"), "the metadata field classes")
    if not isinstance(classes, list):
        raise DatasetError("the metadata field classes must be a JSON list of names")
    return class_names(classes, "the metadata field classes", limits)
