"""The network of a trial as a package: the original's graph after the cut, with weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.generated import Generated
from espalier.format.check import ITEM_BYTES
from espalier.format.errors import FormatError
from espalier.format.ir import Stored
from espalier.format.package import Package, write_package
from espalier.format.safetensors_header import Span, check_header
from models.errors import BlobCorrupt
from search.graph import shrink
from search.graph.positions import alive
from search.space import Kept, SearchSpace

Bytes = NDArray[np.uint8]


def write_trial(
    path: Path,
    original: Package,
    space: SearchSpace,
    kept: Kept,
    weights: Path | None,
    facts: Mapping[str, Any],
) -> Generated:
    """Write the package of a trial; the same arguments give the same bytes.

    Args:
        original: the network that the trial was cut from, its file still there and checked.
        space: of that network.
        weights: the trial's tuned weights, a checked safetensors file; `None` for those of the
            original's weights that the cut leaves, as they are.
        facts: for the manifest, as `trial` of its `extra`.
    Raises:
        BlobCorrupt: the weights are another network's.
    """
    graph = shrink(space, kept)
    tensors = _cut(original, space, kept) if weights is None else _tuned(weights, graph.stored)
    manifest = original.manifest
    write_package(
        path,
        {
            "name": manifest.name,
            "preprocessing": manifest.preprocessing,
            "classes": manifest.classes,
            "notes": manifest.notes,
            "extra": {**manifest.extra, "trial": dict(facts)},
        },
        graph,
        tensors,
    )
    return Generated.at(path)


def _spanned(data: Bytes, span: Span) -> Bytes:
    return data[span.offset : span.offset + span.size_bytes]


def _tuned(path: Path, stored: Mapping[str, Stored]) -> dict[str, Bytes]:
    """The bytes of each tensor, mapped from the file."""
    data = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        spans = check_header(data[8:begin].tobytes(), stored, begin, len(data) - begin)
    except FormatError as error:
        raise BlobCorrupt(
            f"the weights {path.name} do not fit the trial's network ({error}): run the job again"
        ) from error
    return {name: _spanned(data, span) for name, span in spans.items()}


def _cut(original: Package, space: SearchSpace, kept: Kept) -> dict[str, Bytes]:
    """The bytes of what the cut leaves of each of the original's tensors."""
    data = np.memmap(original.path, np.uint8, "r")
    masks = alive(space, kept)
    tensors = {}
    for name, span in original.tensors.items():
        item = ITEM_BYTES[span.stored.dtype]
        tensor = _spanned(data, span).reshape(*span.stored.shape, item)
        for (owner, dim), mask in masks.items():
            if owner == name:
                tensor = np.compress(mask, tensor, axis=dim)
        tensors[name] = np.ascontiguousarray(tensor).reshape(-1)
    return tensors
