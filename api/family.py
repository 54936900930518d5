"""The network of a trial as a package: the original's graph after the cut, the trial's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espalier.format.errors import FormatError
from espalier.format.ir import Stored
from espalier.format.package import Manifest, write_package
from espalier.format.safetensors_header import check_header
from models.blobs import check_file
from models.errors import BlobCorrupt
from search.graph import shrink
from search.space import Kept, SearchSpace


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written; its digest is the SHA-256 in hex."""

    path: Path
    digest: str
    size_bytes: int


def write_trial(
    path: Path,
    original: Manifest,
    space: SearchSpace,
    kept: Kept,
    weights: Path,
    digest: str,
    facts: Mapping[str, Any],
) -> Written:
    """Write the package of a trial; the same arguments give the same bytes.

    Args:
        original: of the network that the trial was cut from.
        space: of that network.
        weights: the trial's tuned weights, a safetensors file.
        digest: SHA-256 of `weights`.
        facts: for the manifest, as `trial` of its `extra`.
    Raises:
        BlobCorrupt: the weights are damaged, or another network's.
    """
    check_file(digest, weights)
    graph = shrink(space, kept)
    write_package(
        path,
        {
            "name": original.name,
            "preprocessing": original.preprocessing,
            "classes": original.classes,
            "extra": {**original.extra, "trial": dict(facts)},
        },
        graph,
        _tensors(weights, graph.stored),
    )
    with path.open("rb") as file:
        written = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(path, written, path.stat().st_size)


def _tensors(path: Path, stored: Mapping[str, Stored]) -> dict[str, NDArray[np.uint8]]:
    """The bytes of each tensor, mapped from the file."""
    data = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    try:
        spans = check_header(data[8:begin].tobytes(), stored, begin, len(data) - begin)
    except FormatError as error:
        raise BlobCorrupt(
            f"the weights {path.name} do not fit the trial's network ({error}): run the job again"
        ) from error
    return {name: data[span.offset : span.offset + span.size_bytes] for name, span in spans.items()}
