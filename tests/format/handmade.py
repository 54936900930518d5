"""Making packages by hand, also those that nobody should make."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from espalier.format.build import load
from espalier.format.errors import EspalierError
from espalier.format.lift import pack
from espalier.format.package import read_package
from tests.counting import counting

MEMBERS = ("graph.json", "weights.safetensors", "manifest.json")


def small(folder: Path) -> dict[str, bytes]:
    """The members of a sound package with a convolution, a normalisation and a linear map."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(48, 2)
    )
    path = pack(network.eval(), torch.randn(2, 2, 4, 4), folder / "small.espalier")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in MEMBERS}


def sealed(members: dict[str, bytes]) -> dict[str, bytes]:
    """With the manifest's digests made right again, so that deeper checks are reached."""
    manifest = json.loads(members["manifest.json"])
    for name in MEMBERS[:2]:
        manifest["digests"][name] = hashlib.sha256(members[name]).hexdigest()
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def archive(members: dict[str, bytes], **options: Any) -> bytes:
    """A zip file of them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as target:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = options.get("compression", zipfile.ZIP_STORED)
            info.external_attr = 0o100644 << 16
            target.writestr(info, data)
    return buffer.getvalue()


def header_of(weights: bytes) -> tuple[dict[str, Any], bytes]:
    """The parsed header of a safetensors file, and the data."""
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def weights_of(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refusal(data: bytes, folder: Path) -> EspalierError:
    """The error for a file, raised after bounded work and without taking 64 MiB."""
    path = folder / "hostile.espalier"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with counting() as counter, pytest.raises(EspalierError) as caught:
            read_package(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counter.calls < 1_000_000
    assert peak < 2**26
    with pytest.raises(type(caught.value)):
        load(path)
    return caught.value
