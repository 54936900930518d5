"""`graph.json`: a graph as text, and back.

A batch multiple is written `{"batch": factor}`, an infinite number `{"float": "inf"}`; everything
else is plain JSON. Reading checks everything and trusts nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from espalier.format import strict_json
from espalier.format.check import DEFAULT_LIMITS, Limits, check
from espalier.format.errors import FormatError, LimitExceeded
from espalier.format.ir import Attr, Batch, Dim, Graph, Module, Node, Stored, TensorType

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


# --- writing ------------------------------------------------------------------------------------


def _value(value: Attr) -> Any:
    if isinstance(value, tuple):
        return [_value(item) if not isinstance(item, Batch) else _dim(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    return value


def _dim(dim: Dim) -> Any:
    return {"batch": dim.factor} if isinstance(dim, Batch) else dim


def _attrs(attrs: Mapping[str, Attr]) -> dict[str, Any]:
    return {name: _value(value) for name, value in attrs.items()}


def _node(node: Node) -> dict[str, Any]:
    written: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.inputs:
        written["inputs"] = list(node.inputs)
    if node.attrs:
        written["attrs"] = _attrs(node.attrs)
    if node.target is not None:
        written["target"] = node.target
    return written


def _stored(stored: Stored) -> dict[str, Any]:
    written: dict[str, Any] = {
        "shape": list(stored.shape),
        "dtype": stored.dtype,
        "trainable": stored.trainable,
    }
    # Written only where they differ: the rest is what version 1 of the format has.
    if stored.frozen:
        written["frozen"] = True
    if not stored.persistent:
        written["persistent"] = False
    return written


def graph_to_json(graph: Graph) -> str:
    """The text of `graph.json`; the same graph always gives the same text.

    Raises:
        FormatError: the graph would be refused when read back.
    """
    check(graph)
    return json.dumps(
        {
            "inputs": {
                name: {"shape": [_dim(dim) for dim in kind.shape], "dtype": kind.dtype}
                for name, kind in graph.inputs.items()
            },
            "outputs": list(graph.outputs),
            "single": graph.single,
            "modules": {
                path: {"kind": module.kind, "args": _attrs(module.args)}
                for path, module in graph.modules.items()
            },
            "stored": {name: _stored(stored) for name, stored in graph.stored.items()},
            "nodes": [_node(node) for node in graph.nodes],
        },
        allow_nan=False,
        separators=(",", ":"),
    )


# --- reading ------------------------------------------------------------------------------------


def _object(value: Any, what: str, required: set[str], optional: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be an object")
    missing, extra = required - value.keys(), value.keys() - required - optional
    if missing or extra:
        name = min(missing or extra)
        raise FormatError(f"{what} {'lacks' if missing else 'has an unknown'} key {name[:64]!r}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{what} must be text")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise FormatError(f"{what} must be true or false")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{what} must be a list")
    return value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be an object")
    return value


def _read_dim(value: Any) -> Dim:
    if isinstance(value, dict):
        value = _object(value, "a dimension", {"batch"})["batch"]
        return Batch(_whole(value))
    return _whole(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"a whole number is needed, not {str(value)[:40]}")
    return value


def _read_attr(value: Any, what: str) -> Attr:
    if isinstance(value, dict) and value.keys() == {"float"}:
        name = value["float"]
        if not isinstance(name, str) or name not in _INFINITIES:
            raise FormatError(f"{what} holds no number")
        return _INFINITIES[name]
    if isinstance(value, list):
        return tuple(item if isinstance(item, float) else _read_dim(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FormatError(f"{what} is of no known kind")


def _read_attrs(value: Any, what: str) -> dict[str, Attr]:
    return {
        name: _read_attr(item, f"{what}.{name[:64]}")
        for name, item in _mapping(value, what).items()
    }


def _read_node(value: Any) -> Node:
    value = _object(value, "a node", {"name", "op"}, {"inputs", "attrs", "target"})
    target = value.get("target")
    inputs = _list(value.get("inputs", []), "the inputs of a node")
    return Node(
        _text(value["name"], "the name of a node"),
        _text(value["op"], "the operator of a node"),
        tuple(_text(name, "an input of a node") for name in inputs),
        _read_attrs(value.get("attrs", {}), "attributes"),
        None if target is None else _text(target, "the target of a node"),
    )


def _read_type(value: Any, what: str) -> TensorType:
    value = _object(value, what, {"shape", "dtype"})
    shape = tuple(_read_dim(dim) for dim in _list(value["shape"], f"the shape of {what}"))
    return TensorType(shape, _text(value["dtype"], f"the element type of {what}"))


def _read_stored(value: Any, what: str) -> Stored:
    value = _object(value, what, {"shape", "dtype", "trainable"}, {"frozen", "persistent"})
    shape = tuple(_whole(dim) for dim in _list(value["shape"], f"the shape of {what}"))
    return Stored(
        shape,
        _text(value["dtype"], f"the element type of {what}"),
        _flag(value["trainable"], f"trainable of {what}"),
        _flag(value.get("frozen", False), f"frozen of {what}"),
        _flag(value.get("persistent", True), f"persistent of {what}"),
    )


def _read_module(value: Any, what: str) -> Module:
    value = _object(value, what, {"kind", "args"})
    return Module(_text(value["kind"], f"the kind of {what}"), _read_attrs(value["args"], what))


def graph_from_json(text: str | bytes, limits: Limits = DEFAULT_LIMITS) -> Graph:
    """Read and check a graph.

    Raises:
        LimitExceeded: too long, too many nodes, too large a tensor.
        UnsupportedOperator: an operator or module outside the table.
        FormatError: anything else that is wrong; the message names it.
    """
    if len(text) > limits.graph_bytes:
        raise LimitExceeded(f"graph.json has {len(text)} bytes; the limit is {limits.graph_bytes}")
    marker: Any = '"op"' if isinstance(text, str) else b'"op"'
    if text.count(marker) > limits.nodes:
        raise LimitExceeded(f"graph.json has more than {limits.nodes} nodes")
    parsed = strict_json.loads(text, what="graph.json")
    strict_json.check_texts(parsed, what="graph.json")
    raw = _object(
        parsed, "graph.json", {"inputs", "outputs", "single", "modules", "stored", "nodes"}
    )
    nodes = _list(raw["nodes"], "nodes")
    if len(nodes) > limits.nodes:
        raise LimitExceeded(f"{len(nodes)} nodes; the limit is {limits.nodes}")
    graph = Graph(
        tuple(_read_node(node) for node in nodes),
        {
            path: _read_module(module, f"module {path[:200]}")
            for path, module in _mapping(raw["modules"], "modules").items()
        },
        {
            name: _read_stored(stored, f"tensor {name[:200]}")
            for name, stored in _mapping(raw["stored"], "stored").items()
        },
        {
            name: _read_type(kind, f"input {name[:200]}")
            for name, kind in _mapping(raw["inputs"], "inputs").items()
        },
        tuple(_text(name, "an output") for name in _list(raw["outputs"], "outputs")),
        _flag(raw["single"], "single"),
    )
    check(graph, limits)
    return graph
