"""Making packages by hand, also those that nobody should make."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.attack.packages import members_of
from espalier.format.build import load
from espalier.format.errors import EspalierError
from espalier.format.lift import pack
from espalier.format.package import read_package
from tests.counting import counting


def small(folder: Path) -> dict[str, bytes]:
    """The members of a sound package with a convolution, a normalisation and a linear map."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(48, 2)
    )
    path = pack(network.eval(), torch.randn(2, 2, 4, 4), folder / "small.espalier")
    return members_of(path.read_bytes())


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
