"""Graphs from strangers: each is refused with a typed error, before memory is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.attack.packages import archive, sealed
from espalier.format.codec import graph_from_json
from espalier.format.errors import (
    EspalierError,
    FormatError,
    LimitExceeded,
    UnsupportedOperator,
)
from tests.format.handmade import refusal


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
    "path quote": (lambda g: _path(g, "a'b"), FormatError),
    "path backslash": (lambda g: _path(g, "a\\"), FormatError),
    "path newline": (lambda g: _path(g, "a\nb"), FormatError),
    "path surrogate": (lambda g: _path(g, "\ud800"), FormatError),
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
    error = refusal(archive(sealed(changed)), tmp_path)
    assert isinstance(error, kind)
    if name.startswith("path"):  # for what it is, not for weights under the old name
        assert "weights.safetensors" not in str(error)


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
