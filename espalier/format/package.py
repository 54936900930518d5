"""Packages: one uncompressed zip with `graph.json`, `weights.safetensors` and `manifest.json`.

Reading checks everything before memory is taken: only the parts that are parsed are held, weights
pass through in pieces. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from espalier.format import strict_json
from espalier.format.archive import Member, read_bytes, read_members, write_members
from espalier.format.check import DEFAULT_LIMITS, Limits
from espalier.format.codec import graph_from_json, graph_to_json
from espalier.format.errors import CorruptPackage, FormatError, LimitExceeded
from espalier.format.ir import Graph, size
from espalier.format.safetensors_header import Span, check_header, header, size_bytes
from espalier.format.versions import Version, version_of
from espalier.text import Line

_PIECE = 2**22


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Preprocessing(_Frozen):
    """How raw data becomes the network's input: `(raw * scale - mean) / std`.

    `mean` and `std` have one value for each channel (dimension 1), or are empty.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = Field((), max_length=65_536)
    std: tuple[float, ...] = Field((), max_length=65_536)

    @model_validator(mode="after")
    def _usable(self) -> Preprocessing:
        if self.scale == 0 or any(value <= 0 for value in self.std):
            raise ValueError("scale must not be zero, and every std must be positive")
        return self


class InputSpec(_Frozen):
    """One input of the network.

    Attributes:
        name: as in the graph.
        shape: without the batch.
        dtype: torch's name without the prefix.
    """

    name: str = Field(max_length=128)
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(max_length=8)
    dtype: str = Field(max_length=16)


class Manifest(_Frozen):
    """What a package says about itself.

    Attributes:
        digests: SHA-256 of the other members, in hexadecimal.
        notes: where the packed network does not do what the original did.
        extra: further facts, such as how the network was pruned.
    """

    format_version: Version = 1
    name: Line = Field(min_length=1, max_length=200)
    inputs: tuple[InputSpec, ...] = Field(min_length=1, max_length=64)
    preprocessing: Preprocessing = Preprocessing()
    classes: tuple[Annotated[Line, Field(max_length=200)], ...] = Field((), max_length=100_000)
    digests: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    notes: tuple[Annotated[Line, Field(max_length=500)], ...] = Field((), max_length=100)
    extra: dict[str, JsonValue] = {}


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was read and found sound.

    Attributes:
        tensors: where the bytes of each stored tensor lie in the file.
    """

    path: Path
    manifest: Manifest
    graph: Graph
    tensors: Mapping[str, Span]


# --- reading ------------------------------------------------------------------------------------


def _pieces(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    for at in range(0, count, _PIECE):
        yield read_bytes(file, offset + at, min(_PIECE, count - at))


def _check_digest(file: BinaryIO, name: str, member: Member, digest: str | None) -> None:
    found, crc = hashlib.sha256(), 0
    for piece in _pieces(file, member.offset, member.size_bytes):
        found.update(piece)
        crc = zlib.crc32(piece, crc)
    if crc != member.crc or digest not in (None, found.hexdigest()):
        raise CorruptPackage(f"{name} does not match its digest: copy or pack it again")


def _not_finite(piece: NDArray[np.uint8], dtype: str) -> tuple[bool, bool]:
    """Whether a piece of a tensor holds NaN, and whether it holds an infinity."""
    if dtype == "bfloat16":  # the upper half of a float32
        wide = piece.view("<u2").astype("<u4") << 16
        values: NDArray[Any] = wide.view("<f4")
    else:
        values = piece.view({"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype])
    return bool(np.isnan(values).any()), bool(np.isinf(values).any())


def _check_values(file: BinaryIO, name: str, span: Span, *, constant: bool) -> None:
    """Refuse NaN anywhere, infinities except in constants (masks are made of them)."""
    if not span.stored.dtype.endswith(("float16", "float32", "float64")):
        return
    for piece in _pieces(file, span.offset, span.size_bytes):
        nan, infinite = _not_finite(np.frombuffer(piece, np.uint8), span.stored.dtype)
        if nan or (infinite and not constant):
            raise FormatError(f"tensor {name} holds {'NaN' if nan else 'an infinity'}")


def _manifest(text: bytes) -> Manifest:
    raw = strict_json.loads(text, what="manifest.json")
    strict_json.check_texts(raw, what="manifest.json")
    try:
        return Manifest.model_validate_json(text) if isinstance(raw, dict) else _refuse()
    except ValidationError as error:
        raise malformed("manifest.json", error) from None


def malformed(thing: str, error: ValidationError) -> FormatError:
    """The first of pydantic's errors in a line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    message = first["msg"].removeprefix("Value error, ")[:200]
    return FormatError(": ".join(part for part in (thing, where, message) if part))


def _refuse() -> Manifest:
    raise FormatError("manifest.json must be an object")


def _input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    return tuple(
        InputSpec(name=name, shape=tuple(size(dim) for dim in kind.shape[1:]), dtype=kind.dtype)
        for name, kind in graph.inputs.items()
    )


def _check_manifest(manifest: Manifest, graph: Graph) -> None:
    if manifest.inputs != _input_specs(graph):
        raise FormatError("manifest.json and graph.json disagree on the inputs")
    channels = [spec.shape[0] if spec.shape else 1 for spec in manifest.inputs]
    for values in (manifest.preprocessing.mean, manifest.preprocessing.std):
        if len(values) not in (0, 1, channels[0]):
            raise FormatError(f"preprocessing has {len(values)} values for {channels[0]} channels")


def read_package(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Package:
    """Read a package, checking all of it, without holding its weights.

    Raises:
        LimitExceeded: it asks for more than `limits` allow.
        CorruptPackage: bytes are missing or do not match their digest.
        UnsupportedOperator: it uses an operator outside the table.
        FormatError: anything else that is wrong; the message names it.
    """
    with opened(path, limits) as (package, _):
        return package


@contextmanager
def opened(
    path: str | Path, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[Package, Callable[[str], bytes]]]:
    """As `read_package`, and a function that reads a tensor by name from the file just checked.

    The file stays open meanwhile, so that nobody can put another in its place.

    Raises:
        FormatError: see `read_package`; the function raises `CorruptPackage` if the file was cut.
    """
    with Path(path).open("rb") as file:
        package = _checked(file, Path(path), limits)

        def tensor(name: str) -> bytes:
            span = package.tensors[name]
            return read_bytes(file, span.offset, span.size_bytes)

        yield package, tensor


def _checked(file: BinaryIO, path: Path, limits: Limits) -> Package:
    members = read_members(file, limits.package_bytes)
    for name, most in (
        ("manifest.json", limits.manifest_bytes),
        ("graph.json", limits.graph_bytes),
    ):
        if members[name].size_bytes > most:
            raise LimitExceeded(f"{name} has {members[name].size_bytes} bytes; the limit is {most}")
    described = members["manifest.json"]
    manifest = _manifest(read_bytes(file, described.offset, described.size_bytes))
    if manifest.digests.keys() != members.keys() - {"manifest.json"}:
        raise FormatError("manifest.json must hold the digest of every other member")
    for name, member in members.items():
        _check_digest(file, name, member, manifest.digests.get(name))
    drawn = members["graph.json"]
    graph = graph_from_json(read_bytes(file, drawn.offset, drawn.size_bytes), limits)
    _check_manifest(manifest, graph)
    tensors = _tensors(file, members["weights.safetensors"], graph, limits)
    read_directly = {node.target for node in graph.nodes if node.op == "tensor"}
    for name, span in tensors.items():
        constant = name in read_directly and not span.stored.trainable
        _check_values(file, name, span, constant=constant)
    return Package(path, manifest, graph, tensors)


def _tensors(file: BinaryIO, member: Member, graph: Graph, limits: Limits) -> dict[str, Span]:
    if member.size_bytes < 8:
        raise FormatError("weights.safetensors has no header")
    length = int.from_bytes(read_bytes(file, member.offset, 8), "little")
    if length > limits.header_bytes:
        raise LimitExceeded(
            f"the header of weights.safetensors has {length} bytes; "
            f"the limit is {limits.header_bytes}"
        )
    if 8 + length > member.size_bytes:
        raise FormatError("the header of weights.safetensors is longer than the file")
    text = read_bytes(file, member.offset + 8, length)
    begin = 8 + length
    return check_header(text, graph.stored, member.offset + begin, member.size_bytes - begin)


# --- writing ------------------------------------------------------------------------------------


def _bytes(data: Any) -> NDArray[np.uint8]:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _views(graph: Graph, tensors: Mapping[str, Any]) -> Iterator[bytes]:
    yield header(graph.stored)
    for name in graph.stored:
        data = _bytes(tensors[name])
        for at in range(0, len(data), _PIECE):
            yield data[at : at + _PIECE].tobytes()


def write_package(
    path: str | Path,
    manifest_fields: Mapping[str, Any],
    graph: Graph,
    tensors: Mapping[str, Any],
) -> Path:
    """Write a package; the same content always gives the same bytes.

    Args:
        manifest_fields: fields of `Manifest` but inputs, digests and version.
        tensors: an array or buffer for each of `graph.stored`, of exactly its size.
    Raises:
        FormatError: the parts do not fit together, or the result could not be read back.
    """
    path = Path(path)
    missing = [name for name in graph.stored if name not in tensors]
    if missing:
        raise FormatError(f"tensor {missing[0]} is missing")
    for name, stored in graph.stored.items():
        given = _bytes(tensors[name]).nbytes
        if given != size_bytes(stored):
            raise FormatError(f"tensor {name} has {given} bytes, not {size_bytes(stored)}")
    text = graph_to_json(graph).encode()
    digest, weights_bytes = hashlib.sha256(), 0
    for piece in _views(graph, tensors):
        digest.update(piece)
        weights_bytes += len(piece)
    if weights_bytes + len(text) > DEFAULT_LIMITS.package_bytes - 2**21:
        raise LimitExceeded(f"{weights_bytes} bytes of weights; a package holds less than 4 GiB")
    digests = {
        "graph.json": hashlib.sha256(text).hexdigest(),
        "weights.safetensors": digest.hexdigest(),
    }
    try:
        manifest = Manifest(
            **manifest_fields,
            format_version=version_of(graph, manifest_fields.get("notes", ())),
            inputs=_input_specs(graph),
            digests=digests,
        )
    except ValidationError as error:
        raise malformed("the package", error) from None
    _check_manifest(manifest, graph)
    described = manifest.model_dump_json(exclude=None if manifest.notes else {"notes"}).encode()
    partial = path.with_name(path.name + ".partial")
    try:
        write_members(
            partial,
            (
                ("graph.json", len(text), [text]),
                ("weights.safetensors", weights_bytes, _views(graph, tensors)),
                ("manifest.json", len(described), [described]),
            ),
        )
        read_package(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


__all__ = [
    "InputSpec",
    "Limits",
    "Manifest",
    "Package",
    "Preprocessing",
    "malformed",
    "opened",
    "read_package",
    "write_package",
]
