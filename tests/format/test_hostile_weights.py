"""Weights and manifests from strangers: lying headers, impossible values, unknown facts."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.attack.packages import archive, sealed
from espalier.format.errors import FormatError
from tests.format.handmade import header_of, refusal, weights_of


def _swap(header: dict[str, Any]) -> None:
    a, b = list(header)[:2]
    header[a]["data_offsets"], header[b]["data_offsets"] = (
        header[b]["data_offsets"],
        header[a]["data_offsets"],
    )


def _set(name: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].__setitem__(key, value)


@pytest.mark.parametrize(
    "change",
    [
        _swap,
        _set("0.weight", "shape", [2**20, 2**20, 3, 3]),
        _set("0.weight", "shape", [3, 2, 9]),
        _set("0.weight", "shape", [-3, -2, 3, 3]),
        _set("0.weight", "dtype", "F64"),
        _set("0.weight", "dtype", "PICKLE"),
        _set("0.weight", "data_offsets", [0, 2**40]),
        _set("0.weight", "data_offsets", [-216, 0]),
        _set("0.weight", "data_offsets", [4, 220]),
        _set("0.weight", "data_offsets", [0.0, 216.0]),
        _set("0.bias", "data_offsets", [0, 12]),
        lambda header: header.pop("0.bias"),
        lambda header: header.update(more={"dtype": "F32", "shape": [], "data_offsets": [0, 4]}),
        lambda header: header.update({"0.weight": None}),
    ],
)
def test_lying_headers(
    change: Callable[[dict[str, Any]], None], members: dict[str, bytes], tmp_path: Path
) -> None:
    header, data = header_of(members["weights.safetensors"])
    change(header)
    changed = {**members, "weights.safetensors": weights_of(header, data)}
    assert isinstance(refusal(archive(sealed(changed)), tmp_path), FormatError)


def test_header_lengths(members: dict[str, bytes], tmp_path: Path) -> None:
    weights = members["weights.safetensors"]
    for length in (2**63, 2**40, 2**23, len(weights), 0):
        lying = {**members, "weights.safetensors": length.to_bytes(8, "little") + weights[8:]}
        assert isinstance(refusal(archive(sealed(lying)), tmp_path), FormatError)
    for text in (b"", b"1234"):
        refusal(archive(sealed({**members, "weights.safetensors": text})), tmp_path)
    trailing = {**members, "weights.safetensors": weights + b"1234"}
    assert "longer" in str(refusal(archive(sealed(trailing)), tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(
    value: float, members: dict[str, bytes], tmp_path: Path
) -> None:
    header, data = header_of(members["weights.safetensors"])
    start = header["1.running_var"]["data_offsets"][0]
    data = data[:start] + struct.pack("<f", value) + data[start + 4 :]
    changed = {**members, "weights.safetensors": weights_of(header, data)}
    assert "1.running_var" in str(refusal(archive(sealed(changed)), tmp_path))


# --- the manifest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format_version=3),
        lambda m: m.update(unknown=1),
        lambda m: m.update(inputs=[]),
        lambda m: m["inputs"][0].update(shape=[3, 4, 4]),
        lambda m: m["inputs"][0].update(dtype="float64"),
        lambda m: m["digests"].pop("graph.json"),
        lambda m: m["digests"].update({"manifest.json": "0" * 64}),
        lambda m: m.update(name="n" * 1000),
        lambda m: m["preprocessing"].update(std=[0.0, 1.0]),
        lambda m: m["preprocessing"].update(mean=[0.0] * 5),
        lambda m: m.update(classes=[["nested"]]),
    ],
)
def test_manifests(
    change: Callable[[dict[str, Any]], object], members: dict[str, bytes], tmp_path: Path
) -> None:
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    changed = {**members, "manifest.json": json.dumps(manifest).encode()}
    assert isinstance(refusal(archive(changed), tmp_path), FormatError)
