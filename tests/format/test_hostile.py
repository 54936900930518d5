"""Files from strangers: each is refused with a typed error, before memory is taken."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espalier.format.build import load
from espalier.format.codec import graph_from_json
from espalier.format.errors import (
    CorruptPackage,
    EspalierError,
    FormatError,
    LimitExceeded,
    UnsupportedOperator,
)
from espalier.format.package import read_package
from tests.format.handmade import MEMBERS, archive, header_of, sealed, small, weights_of


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return small(tmp_path_factory.mktemp("small"))


def refusal(data: bytes, folder: Path) -> EspalierError:
    """The error for a file, raised within a second and without taking 64 MiB."""
    path = folder / "hostile.espalier"
    path.write_bytes(data)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(EspalierError) as caught:
            read_package(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 5
    assert peak < 2**26
    with pytest.raises(type(caught.value)):
        load(path)
    return caught.value


def test_a_sound_package_by_hand_is_read(members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "sound.espalier"
    path.write_bytes(archive(sealed(members)))
    assert read_package(path).manifest.name == "Sequential"


# --- the zip file -------------------------------------------------------------------------------


def test_zip_tricks(members: dict[str, bytes], tmp_path: Path) -> None:
    sound = archive(members)
    end = sound.rindex(b"PK\5\6")
    directory = struct.unpack_from("<I", sound, end + 16)[0]

    def patched(at: int, value: bytes) -> bytes:
        return sound[:at] + value + sound[at + len(value) :]

    def renamed(old: str, new: str) -> dict[str, bytes]:
        return {new if name == old else name: data for name, data in members.items()}

    cases: dict[str, bytes] = {
        "compressed": archive(members, compression=zipfile.ZIP_DEFLATED),
        "bomb": archive(
            {**members, "weights.safetensors": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED
        ),
        "an extra file": archive({**members, "evil.py": b"import os"}),
        "a path trick": archive(renamed("graph.json", "../graph.json")),
        "an absolute path": archive(renamed("manifest.json", "/manifest.json")),
        "a missing file": archive({n: members[n] for n in MEMBERS[:2]}),
        "a prefix": b"#!/bin/sh\n" + sound,
        "a suffix": sound + b"more",
        "a comment": sound[:-2] + b"\4\0more",
        "central size": patched(directory + 24, struct.pack("<I", 2**31)),
        "both central sizes": patched(directory + 20, struct.pack("<II", 2**31, 2**31)),
        "zip64 size": patched(directory + 20, b"\xff" * 8),
        "local size": patched(22, struct.pack("<I", 1)),
        "local name": patched(30, b"xraph.json"),
        "local method": patched(8, b"\x08\0"),
        "offset": patched(directory + 42, struct.pack("<I", 5)),
        "encrypted": patched(directory + 8, b"\x01\0"),
        "symlink": patched(directory + 38, struct.pack("<I", 0o120777 << 16)),
        "folder": patched(directory + 38, struct.pack("<I", 0o040755 << 16)),
        "count": patched(end + 8, struct.pack("<HH", 9, 9)),
        "directory offset": patched(end + 16, struct.pack("<I", 2**31)),
        "truncated": sound[: len(sound) // 2],
        "empty": b"",
        "not a zip": b"\x80\x04pickle" * 100,
    }
    for name, data in cases.items():
        assert isinstance(refusal(data, tmp_path), FormatError), name
    twice = archive({**members})
    half = twice.replace(b"manifest.json", b"weights.safet"[:13])
    assert isinstance(refusal(half, tmp_path), FormatError)


def test_overlapping_members(members: dict[str, bytes], tmp_path: Path) -> None:
    """Two directory entries that point at one member's bytes."""
    sound = archive(members)
    directory = sound.rindex(b"PK\5\6")
    first = sound.index(b"PK\1\2")
    second = sound.index(b"PK\1\2", first + 4)
    assert second < directory
    shared = sound[: second + 42] + sound[first + 42 : first + 46] + sound[second + 46 :]
    assert "overlaps" in str(refusal(shared, tmp_path))


def test_flipped_bytes_do_not_match_the_digest(members: dict[str, bytes], tmp_path: Path) -> None:
    weights = bytearray(members["weights.safetensors"])
    weights[-1] ^= 1
    error = refusal(archive({**members, "weights.safetensors": bytes(weights)}), tmp_path)
    assert isinstance(error, CorruptPackage)


# --- the weights --------------------------------------------------------------------------------


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
        lambda m: m.update(format_version=2),
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


# --- the graph ----------------------------------------------------------------------------------


def _node(graph: dict[str, Any], op: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in graph["nodes"] if node["op"] == op)
    return found


def _rename(graph: dict[str, Any], name: str) -> None:
    old = graph["outputs"][0]
    graph["outputs"][0] = name
    next(node for node in graph["nodes"] if node["name"] == old)["name"] = name


def _path(graph: dict[str, Any], path: str) -> None:
    for table in ("modules", "stored"):
        graph[table] = {
            k.replace("4", path, 1) if k[0] == "4" else k: v for k, v in graph[table].items()
        }
    for node in graph["nodes"]:
        if node.get("target") == "4":
            node["target"] = path


Change = Callable[[dict[str, Any]], object]


def _args(path: str, **changed: object) -> Change:
    return lambda graph: graph["modules"][path]["args"].update(changed)


def _held(name: str, **changed: object) -> Change:
    return lambda graph: graph["stored"][name].update(changed)


def _input(shape: list[Any]) -> Change:
    return lambda graph: graph["inputs"]["input"].update(shape=shape)


def _shape(shape: list[Any]) -> Change:
    return lambda graph: _node(graph, "reshape")["attrs"].update(shape=shape)


GRAPHS: dict[str, tuple[Change, type[EspalierError]]] = {
    "forward reference": (lambda g: g["nodes"].reverse(), FormatError),
    "cycle": (lambda g: g["nodes"][1].update(inputs=[g["nodes"][-1]["name"]]), FormatError),
    "reads itself": (lambda g: g["nodes"][1].update(inputs=[g["nodes"][1]["name"]]), FormatError),
    "unknown input": (lambda g: g["nodes"][2].update(inputs=["nothing"]), FormatError),
    "same name": (lambda g: _rename(g, g["nodes"][1]["name"]), FormatError),
    "unknown operator": (lambda g: _node(g, "gelu").update(op="eval"), UnsupportedOperator),
    "dunder operator": (lambda g: _node(g, "gelu").update(op="__import__"), UnsupportedOperator),
    "unknown module": (lambda g: g["modules"]["0"].update(kind="Conv9d"), UnsupportedOperator),
    "unknown attribute": (lambda g: _node(g, "gelu")["attrs"].update(out=1), FormatError),
    "missing attribute": (lambda g: _node(g, "gelu").pop("attrs"), FormatError),
    "wrong attribute": (lambda g: _node(g, "gelu")["attrs"].update(approximate=3), FormatError),
    "open text": (lambda g: _node(g, "gelu")["attrs"].update(approximate="x');"), FormatError),
    "padding mode": (_args("0", padding_mode="x"), FormatError),
    "module argument": (_args("0", device="cuda"), FormatError),
    "bool for int": (_args("0", groups=True), FormatError),
    "no groups": (_args("0", groups=0), FormatError),
    "no stride": (_args("0", stride=[0, 0]), FormatError),
    "negative kernel": (_args("0", dilation=[-1, 1]), FormatError),
    "huge padding": (_args("0", padding=[9**9] * 2), EspalierError),
    "huge features": (_args("4", out_features=2**30), FormatError),
    "no tensor": (lambda g: g["stored"].pop("0.bias"), FormatError),
    "tensor of none": (
        lambda g: g["stored"].update({"0.more": g["stored"]["0.bias"]}),
        FormatError,
    ),
    "huge tensor": (_held("0.bias", shape=[2**31]), LimitExceeded),
    "trained statistic": (
        lambda g: g["stored"]["1.running_mean"].update(trainable=True),
        FormatError,
    ),
    "integer weight": (_held("0.bias", dtype="int64"), FormatError),
    "element type": (_held("0.bias", dtype="object"), FormatError),
    "huge input": (
        lambda g: g["inputs"]["input"].update(shape=[{"batch": 1}, 2, 9**9, 9**9]),
        EspalierError,
    ),
    "zero input": (
        lambda g: g["inputs"]["input"].update(shape=[{"batch": 1}, 2, 0, 4]),
        FormatError,
    ),
    "no batch": (_input([2, 2, 4, 4]), FormatError),
    "two batches": (lambda g: g["inputs"]["input"]["shape"].append({"batch": 1}), FormatError),
    "no output": (lambda g: g.update(outputs=[]), FormatError),
    "unknown output": (lambda g: g.update(outputs=["nothing"]), FormatError),
    "reshape": (
        lambda g: _node(g, "reshape")["attrs"].update(shape=[{"batch": 1}, 47]),
        FormatError,
    ),
    "negative": (
        lambda g: _node(g, "reshape")["attrs"].update(shape=[{"batch": -1}, -48]),
        FormatError,
    ),
    "extra key": (lambda g: g.update(code="import os"), FormatError),
    "nodes": (lambda g: g.update(nodes={}), FormatError),
    "name": (lambda g: _rename(g, "x);import os;("), FormatError),
    "newline": (lambda g: _rename(g, "x\n"), FormatError),
    "keyword": (lambda g: _rename(g, "lambda"), FormatError),
    "dunder": (lambda g: _rename(g, "__builtins__"), FormatError),
    "unicode": (lambda g: _rename(g, "ⅹ"), FormatError),
    "path forward": (lambda g: _path(g, "forward"), FormatError),
    "path class": (lambda g: _path(g, "__class__"), FormatError),
    "path training": (lambda g: _path(g, "training"), FormatError),
    "path graph": (lambda g: _path(g, "graph"), FormatError),
    "path injection": (lambda g: _path(g, 'a"),exit(),("'), FormatError),
    "path empty": (lambda g: _path(g, ""), FormatError),
    "path dots": (lambda g: _path(g, "a..b"), FormatError),
    "path deep": (lambda g: _path(g, ".".join("a" * 400)), LimitExceeded),
    "inside a tensor": (lambda g: _path(g, "0.bias"), FormatError),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str, members: dict[str, bytes], tmp_path: Path) -> None:
    change, kind = GRAPHS[name]
    graph = json.loads(members["graph.json"])
    change(graph)
    changed = {**members, "graph.json": json.dumps(graph).encode()}
    assert isinstance(refusal(archive(sealed(changed)), tmp_path), kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"nodes":[' + b'{"op":"relu"},' * 1_000_000 + b"]}", LimitExceeded),
        (b'{"nodes":[' + b'{"op":"relu"},' * 30_000 + b"]}", LimitExceeded),
        (b"[" * 100_000, LimitExceeded),
        (b'{"a":' * 100_000, LimitExceeded),
        (b'{"inputs":' + b"9" * 100_000 + b"}", LimitExceeded),
        (b'{"inputs":1e999}', FormatError),
        (b'{"inputs":NaN}', FormatError),
        (b'{"inputs":Infinity}', FormatError),
        (b'{"inputs":{},"inputs":{}}', FormatError),
        (b"\xff\xfe", FormatError),
        (b"", FormatError),
        (b"null", FormatError),
        (b"[]", FormatError),
        (b'"' + b"\\ud800" + b'"', FormatError),
    ],
    ids=range(14),
)
def test_texts(text: bytes, kind: type[EspalierError]) -> None:
    with pytest.raises(kind):
        graph_from_json(text)


# --- fuzz ---------------------------------------------------------------------------------------


def _mutated(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed))
        kind = source.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del changed[at : at + source.randint(1, 40)]
        elif kind == 2:
            start = source.randrange(len(data))
            changed[at:at] = data[start : start + source.randint(1, 40)]
        else:
            changed[at : at + 1] = source.choice(
                [b"0", b"-1", b"null", b"[]", b'"', b"{", b"9" * 12]
            )
        if not changed:
            return b""
    return bytes(changed)


def test_fuzz(members: dict[str, bytes], tmp_path: Path) -> None:
    """Mutated files, graphs, headers and manifests: a typed error, or a sound package."""
    source = random.Random(0)
    path = tmp_path / "fuzzed.espalier"
    sound = archive(members)
    refused: list[str] = []
    for round_ in range(600):
        if round_ % 4 == 0:
            data = _mutated(sound, source)
        else:
            name = MEMBERS[round_ % 4 - 1]
            changed = {**members, name: _mutated(members[name], source)}
            data = archive(changed if name == "manifest.json" else sealed(changed))
        path.write_bytes(data)
        try:
            load(path)
        except EspalierError as error:
            refused.append(str(error))
    assert 500 < len(refused) < 600
    assert max(map(len, refused)) < 2_000
