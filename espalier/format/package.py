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
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from espalier.format.archive import Member, read_bytes, read_members, write_members
from espalier.format.check import DEFAULT_LIMITS, Limits
from espalier.format.codec import graph_from_json, graph_to_json
from espalier.format.errors import CorruptPackage, FormatError, LimitExceeded
from espalier.format.ir import Graph
from espalier.format.manifest import (
    Manifest,
    check_manifest,
    input_specs,
    malformed,
    manifest_from_json,
)
from espalier.format.safetensors_header import Span, check_header, header, size_bytes
from espalier.format.versions import version_of

_PIECE = 2**22


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
    manifest = manifest_from_json(read_bytes(file, described.offset, described.size_bytes))
    if manifest.digests.keys() != members.keys() - {"manifest.json"}:
        raise FormatError("manifest.json must hold the digest of every other member")
    for name, member in members.items():
        _check_digest(file, name, member, manifest.digests.get(name))
    drawn = members["graph.json"]
    graph = graph_from_json(read_bytes(file, drawn.offset, drawn.size_bytes), limits)
    check_manifest(manifest, graph)
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
            inputs=input_specs(graph),
            digests=digests,
        )
    except ValidationError as error:
        raise malformed("the package", error) from None
    check_manifest(manifest, graph)
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
