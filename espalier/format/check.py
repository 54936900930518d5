"""Whether a graph is sound: names, attributes, stored tensors, order, shapes, sizes."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from espalier.format.errors import FormatError, LimitExceeded, UnsupportedOperator
from espalier.format.ir import Attr, Batch, Graph, Stored
from espalier.format.operators import MODULES, OPERATORS, infer
from espalier.format.reserved import RESERVED
from espalier.text import unfit

ITEM_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})

CHOICES: Mapping[tuple[str, str], frozenset[str]] = {
    ("gelu", "approximate"): frozenset({"none", "tanh"}),
    ("pad", "mode"): frozenset({"constant", "reflect", "replicate", "circular"}),
    ("interpolate", "mode"): frozenset(
        {"nearest", "nearest-exact", "linear", "bilinear", "bicubic"}
    ),
    **{
        (kind, "padding_mode"): frozenset({"zeros"})
        for kind in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d")
    },
}
"""What a text attribute may say, by operator or module kind and attribute."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a package may ask for.

    Attributes:
        package_bytes: the whole file.
        manifest_bytes, graph_bytes, header_bytes: its parts that are parsed.
        nodes: steps of the network.
        activation_elements: elements of any one tensor while running, for one example.
    """

    package_bytes: int = 2**32 - 1
    manifest_bytes: int = 2**20
    graph_bytes: int = 2**22
    header_bytes: int = 2**22
    nodes: int = 20_000
    activation_elements: int = 2**28


DEFAULT_LIMITS = Limits()

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_SPECIAL = re.compile(r"__[A-Za-z]\w*__")  # Python looks methods up under such names
_PART_LENGTH = 256
_UNSAFE = frozenset("\"'\\")
"""torch writes names into code that it runs, as in `getattr(self, "name")`: these end the text."""


def _shown(text: str) -> str:
    return repr(text[:80])


def check_name(name: str) -> None:
    """A node's name becomes a variable of generated code: an ASCII identifier, nothing else."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("__"):
        raise FormatError(f"{_shown(name)} cannot name a node: use letters, digits and _")


def check_path(path: str) -> None:
    """A path of modules: any names that `nn.Module` takes, joined by dots, that cannot act as code.

    Raises:
        LimitExceeded: it is too long.
        FormatError: a name of it is empty, holds a quote, a backslash, a control character or half
            a surrogate pair, or is one that torch or Python use themselves.
    """
    parts = path.split(".")
    if len(path) > 1024 or len(parts) > 32 or max(map(len, parts)) > _PART_LENGTH:
        raise LimitExceeded(f"the path {_shown(path)} is too long")
    for part in parts:
        if not part:
            raise FormatError(f"{_shown(path)} is no path of modules: a name is empty")
        fault = unfit(part) or (not _UNSAFE.isdisjoint(part) and "a quote or backslash")
        if fault:
            raise FormatError(f"{_shown(path)}: a name cannot hold {fault}; rename it")
        if part in RESERVED or _SPECIAL.fullmatch(part):
            raise FormatError(f"{_shown(path)}: torch uses the name {part} itself; rename it")


# --- attributes ---------------------------------------------------------------------------------

_WIDEST = 2**31


def _is_int(value: object) -> bool:
    return type(value) is int and -_WIDEST < value < _WIDEST


def _is_float(value: object) -> bool:
    return type(value) is float and not math.isnan(value)


def _matches(kind: str, value: Attr) -> bool:
    if kind.endswith("?"):
        return value is None or _matches(kind[:-1], value)
    if kind == "int":
        return _is_int(value)
    if kind == "float":
        return _is_float(value)
    if kind == "bool":
        return type(value) is bool
    if kind == "str":
        return type(value) is str
    if not isinstance(value, tuple) or len(value) > 64:
        return False
    if kind == "ints":
        return all(_is_int(item) for item in value)
    if kind == "floats":
        return all(_is_float(item) for item in value)
    return all(_is_int(item) or isinstance(item, Batch) for item in value)


def _check_attrs(what: str, kind: str, table: Mapping[str, str], attrs: Mapping[str, Attr]) -> None:
    for name in attrs.keys() ^ table.keys():
        raise FormatError(f"{what} ({kind}): attribute {_shown(name)} is missing or unknown")
    for name, wanted in table.items():
        if not _matches(wanted, attrs[name]):
            raise FormatError(f"{what} ({kind}): attribute {name} must be {wanted}")
        value = attrs[name]
        if isinstance(value, str) and value not in CHOICES[kind, name]:
            raise FormatError(f"{what} ({kind}): {name} cannot be {_shown(value)}")


# --- stored tensors -----------------------------------------------------------------------------


def _check_stored(name: str, stored: Stored) -> None:
    check_path(name)
    if stored.dtype not in ITEM_BYTES:
        raise FormatError(f"tensor {name} has the unknown element type {_shown(stored.dtype)}")
    if len(stored.shape) > 8 or any(dim < 0 for dim in stored.shape):
        raise FormatError(f"tensor {name} has the impossible shape {stored.shape[:9]}")
    if any(dim >= _WIDEST for dim in stored.shape) or math.prod(stored.shape) >= 2**40:
        raise LimitExceeded(f"tensor {name} of shape {stored.shape} is too large")
    if stored.trainable and stored.dtype not in FLOATS and not stored.frozen:
        raise FormatError(f"tensor {name} is trainable but holds {stored.dtype}")
    if stored.frozen and not stored.trainable:
        raise FormatError(f"tensor {name} is frozen but no parameter")
    if stored.trainable and not stored.persistent:
        raise FormatError(f"tensor {name} is a parameter, which is always persistent")


def expected_tensors(graph: Graph) -> dict[str, tuple[int, ...] | None]:
    """Names of the tensors that the graph's nodes need, with the shapes that modules fix."""
    needed: dict[str, tuple[int, ...] | None] = {
        node.target: None for node in graph.nodes if node.op == "tensor" and node.target
    }
    for path, module in graph.modules.items():
        for local, shape in MODULES[module.kind].tensors(module.args).items():
            needed[f"{path}.{local}"] = shape
    return needed


_OPTIONAL = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _check_tensors(graph: Graph) -> None:
    needed = expected_tensors(graph)
    for path, module in graph.modules.items():
        held = MODULES[module.kind].tensors(module.args)
        for local in _OPTIONAL:  # a module that found it under its own name would use it
            if local not in held and f"{path}.{local}" in graph.stored:
                raise FormatError(f"tensor {path}.{local} is not one that its module has")
    for name in sorted(needed.keys() ^ graph.stored.keys()):
        state = "is missing" if name in needed else "is not used by any node"
        raise FormatError(f"tensor {name} {state}")
    for name, shape in needed.items():
        if shape is not None and graph.stored[name].shape != shape:
            found = graph.stored[name].shape
            raise FormatError(f"tensor {name} has shape {found}; its module needs {shape}")
    for path, module in graph.modules.items():
        kind = MODULES[module.kind]
        kinds = {graph.stored[f"{path}.{n}"].dtype for n in kind.tensors(module.args)} - {"int64"}
        if not kinds <= FLOATS or len(kinds) > 1:
            raise FormatError(f"module {path} mixes element types {sorted(kinds)}")
        for local in kind.tensors(module.args):
            stored = graph.stored[f"{path}.{local}"]
            if (stored.dtype == "int64") != (local == "num_batches_tracked"):
                raise FormatError(f"tensor {path}.{local} cannot hold {stored.dtype}")
            if stored.trainable and local in kind.buffers:
                raise FormatError(f"tensor {path}.{local} is a statistic, not trainable")


def _check_tree(paths: Iterable[str], graph: Graph) -> None:
    """No tensor is also a place that holds something."""
    for path in paths:
        parts = path.split(".")
        for end in range(1, len(parts)):
            if ".".join(parts[:end]) in graph.stored:
                raise FormatError(f"{_shown(path)} lies below a tensor")
    for name in graph.modules.keys() & graph.stored.keys():
        raise FormatError(f"{_shown(name)} is a module and a tensor")


# --- the whole ----------------------------------------------------------------------------------


def _check_modules(graph: Graph) -> None:
    for path, module in graph.modules.items():
        check_path(path)
        if module.kind not in MODULES:
            raise UnsupportedOperator(f"module {path} is a {_shown(module.kind)}, not in the table")
        _check_attrs(f"module {path}", module.kind, MODULES[module.kind].args, module.args)


def _check_nodes(graph: Graph) -> None:
    seen: set[str] = set()
    called: set[str] = set()
    inputs: list[str] = []
    for node in graph.nodes:
        check_name(node.name)
        if node.name in seen:
            raise FormatError(f"two nodes are named {node.name}")
        for name in node.inputs:
            if name not in seen:
                raise FormatError(f"node {node.name} reads {_shown(name)}, which is not before it")
        seen.add(node.name)
        targeted = node.op in ("module", "tensor")
        if targeted != (node.target is not None):
            raise FormatError(f"node {node.name} ({_shown(node.op)}): target missing or not wanted")
        if node.op == "input":
            inputs.append(node.name)
        elif node.op == "module":
            if node.target not in graph.modules:
                raise FormatError(f"node {node.name} calls {_shown(node.target or '')}, no module")
            called.add(node.target or "")
        elif node.op == "tensor":
            if node.target not in graph.stored:
                raise FormatError(f"node {node.name} reads {_shown(node.target or '')}, no tensor")
        elif node.op not in OPERATORS:
            raise UnsupportedOperator(f"node {node.name} is a {_shown(node.op)}, not in the table")
        expected = 1 if node.op == "module" else 0
        if node.op in ("input", "tensor", "module") and len(node.inputs) != expected:
            raise FormatError(f"node {node.name} ({node.op}) reads {len(node.inputs)} tensors")
        table = OPERATORS[node.op].attrs if node.op in OPERATORS else {}
        _check_attrs(f"node {node.name}", node.op, table, node.attrs)
    if sorted(inputs) != sorted(graph.inputs) or not inputs:
        raise FormatError("the input nodes are not those that the graph declares")
    for path in graph.modules.keys() - called:
        raise FormatError(f"module {path} is never called")
    for name in graph.outputs:
        if name not in seen:
            raise FormatError(f"the output {_shown(name)} is no node")
    if not graph.outputs or (graph.single and len(graph.outputs) != 1):
        raise FormatError(f"{len(graph.outputs)} outputs do not fit")


def _check_inputs(graph: Graph) -> None:
    for name, kind in graph.inputs.items():
        if kind.dtype not in ITEM_BYTES:
            raise FormatError(f"input {name} has the unknown type {_shown(kind.dtype)}")
        if not 1 <= len(kind.shape) <= 8 or kind.shape[0] != Batch(1):
            raise FormatError(f"input {name} must have the batch as its first dimension")
        if any(isinstance(dim, Batch) for dim in kind.shape[1:]):
            raise FormatError(f"input {name} has more than one batch dimension")


def check(graph: Graph, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise the error that says what is wrong with a graph, if anything is.

    Raises:
        LimitExceeded: it asks for more than `limits` allow.
        UnsupportedOperator: it uses what is not in the table.
        FormatError: it contradicts itself; the message names the place.
    """
    if len(graph.nodes) > limits.nodes:
        raise LimitExceeded(f"{len(graph.nodes)} nodes; the limit is {limits.nodes}")
    if len(graph.stored) > 4 * limits.nodes or len(graph.outputs) > limits.nodes:
        raise LimitExceeded(f"more tensors or outputs than {limits.nodes} nodes can need")
    for name, stored in graph.stored.items():
        _check_stored(name, stored)
    _check_modules(graph)
    _check_nodes(graph)
    _check_tree([*graph.modules, *graph.stored], graph)
    _check_tensors(graph)
    _check_inputs(graph)
    infer(graph, limits.activation_elements)
