"""The closed set of operators: for each, its attributes and the shape of what it yields.

This table and that of the modules are the format. Packing refuses what is not in them, loading
builds only from them, and the coupling analysis has one rule for each of their entries (a test
holds them together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espalier.format import shapes
from espalier.format.errors import FormatError, LimitExceeded, UnsupportedOperator
from espalier.format.ir import Graph, Module, Node, TensorType, size
from espalier.format.module_kinds import MODULES, ModuleKind
from espalier.format.shapes import (
    Attrs,
    Shape,
    ShapeRule,
    axis,
    broadcast,
    dims,
    integer,
    integers,
    window,
)

__all__ = [
    "MODULES",
    "OPERATORS",
    "Attrs",
    "ModuleKind",
    "Operator",
    "Shape",
    "ShapeRule",
    "axis",
    "broadcast",
    "dims",
    "infer",
    "integer",
    "integers",
    "window",
]


@dataclass(frozen=True, slots=True)
class Operator:
    """A function of tensors.

    Attributes:
        inputs: least and greatest number of tensors it reads.
        attrs: the kind of each attribute: `int`, `float`, `bool`, `str`, `ints`, `floats`, `dims`
            (integers or batch multiples); a trailing `?` allows null.
        shape: from the inputs' types and the attributes; raises `FormatError` on a mismatch.
    """

    inputs: tuple[int, int]
    attrs: Mapping[str, str]
    shape: ShapeRule


_UNARY: dict[str, dict[str, str]] = {
    **{name: {} for name in ("relu", "relu6", "silu", "mish", "sigmoid", "tanh", "hardswish")},
    **{name: {} for name in ("hardsigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "erf")},
    **{name: {} for name in ("reciprocal", "square", "selu", "logsigmoid", "sin", "cos")},
    **{name: {} for name in ("log1p", "expm1")},
    "hardtanh": {"min": "float", "max": "float"},
    "clamp": {"min": "float?", "max": "float?"},
    "leaky_relu": {"slope": "float"},
    "elu": {"alpha": "float"},
    "celu": {"alpha": "float"},
    "hardshrink": {"lambd": "float"},
    "softshrink": {"lambd": "float"},
    "threshold": {"threshold": "float", "value": "float"},
    "gelu": {"approximate": "str"},
    "softplus": {"beta": "float", "threshold": "float"},
}
_SCALAR = {"scalar": "float?", "reversed": "bool"}  # `reversed`: scalar - x, scalar / x
_MAX_POOL = {
    "kernel": "ints",
    "stride": "ints",
    "padding": "ints",
    "dilation": "ints",
    "ceil_mode": "bool",
}
_AVG_POOL = {
    "kernel": "ints",
    "stride": "ints",
    "padding": "ints",
    "ceil_mode": "bool",
    "count_include_pad": "bool",
    "divisor": "int?",
}
_REDUCE = {"dims": "ints", "keepdim": "bool"}

OPERATORS: Mapping[str, Operator] = {
    **{name: Operator((1, 1), attrs, shapes.same) for name, attrs in _UNARY.items()},
    # Values are the same in either memory layout; kernels that follow may differ in the last bit.
    "contiguous": Operator((1, 1), {"channels_last": "bool"}, shapes.laid_out),
    **{
        name: Operator((1, 2), _SCALAR, shapes.elementwise)
        for name in ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
    },
    "dropout": Operator((1, 1), {"p": "float"}, shapes.dropped),
    "feature_dropout": Operator((1, 1), {"p": "float"}, shapes.dropped_whole),
    # Where the mask, of truth values, holds: `value`.
    "masked_fill": Operator((2, 2), {"value": "float"}, shapes.masked),
    "softmax": Operator((1, 1), {"dim": "int"}, shapes.along),
    "log_softmax": Operator((1, 1), {"dim": "int"}, shapes.along),
    "matmul": Operator((2, 2), {}, shapes.matmul),
    "linear": Operator((2, 3), {}, shapes.linear),  # weights that are not a Linear module's own
    "layer_norm": Operator((1, 3), {"shape": "ints", "eps": "float"}, shapes.layer_norm),
    "attention": Operator(
        (3, 4), {"scale": "float?", "causal": "bool", "dropout": "float"}, shapes.attention
    ),
    "max_pool1d": Operator((1, 1), _MAX_POOL, shapes.pooled),
    "max_pool2d": Operator((1, 1), _MAX_POOL, shapes.pooled),
    "max_pool3d": Operator((1, 1), _MAX_POOL, shapes.pooled),
    "avg_pool3d": Operator((1, 1), _AVG_POOL, shapes.pooled),
    "adaptive_avg_pool3d": Operator((1, 1), {"output_size": "ints"}, shapes.adaptive),
    "avg_pool1d": Operator((1, 1), _AVG_POOL, shapes.pooled),
    "avg_pool2d": Operator((1, 1), _AVG_POOL, shapes.pooled),
    **{
        f"adaptive_{kind}_pool{rank}d": Operator((1, 1), {"output_size": "ints"}, shapes.adaptive)
        for kind in ("avg", "max")
        for rank in (1, 2)
    },
    **{name: Operator((1, 1), _REDUCE, shapes.reduced) for name in ("mean", "sum", "amax", "amin")},
    "var": Operator((1, 1), {**_REDUCE, "correction": "float"}, shapes.reduced),
    "std": Operator((1, 1), {**_REDUCE, "correction": "float"}, shapes.reduced),
    "norm": Operator((1, 1), {**_REDUCE, "order": "float"}, shapes.reduced),  # of vectors
    "reshape": Operator(
        (1, 1), {"shape": "dims"}, shapes.reshaped
    ),  # view, flatten, (un)squeeze, ...
    "permute": Operator((1, 1), {"dims": "ints"}, shapes.permuted),
    "expand": Operator((1, 1), {"shape": "dims"}, shapes.expanded),
    "cat": Operator((1, 4096), {"dim": "int"}, shapes.concatenated),
    "slice": Operator(
        (1, 1), {"dim": "int", "start": "int", "stop": "int", "step": "int"}, shapes.sliced
    ),
    "select": Operator((1, 1), {"dim": "int", "index": "int"}, shapes.selected),
    "pad": Operator((1, 1), {"pads": "ints", "mode": "str", "value": "float"}, shapes.padded),
    "roll": Operator((1, 1), {"shifts": "ints", "dims": "ints"}, shapes.rolled),
    "flip": Operator((1, 1), {"dims": "ints"}, shapes.flipped),
    "pixel_shuffle": Operator((1, 1), {"factor": "int"}, shapes.pixel_shuffled),
    "pixel_unshuffle": Operator((1, 1), {"factor": "int"}, shapes.pixel_unshuffled),
    "interpolate": Operator(
        (1, 1), {"size": "ints", "mode": "str", "align_corners": "bool?"}, shapes.resized
    ),
}


# --- the whole graph ----------------------------------------------------------------------------


FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})
_MOVES = frozenset({"reshape", "permute", "expand", "cat", "slice", "select", "roll", "flip"})


def _element_type(what: str, types: Sequence[str], *, moves: bool = False) -> str:
    """The one element type of everything that a step reads; arithmetic is for floats only."""
    if len(set(types)) != 1 or not (moves or types[0] in FLOATS):
        raise FormatError(f"{what} cannot compute with {', '.join(sorted(set(types)))}")
    return types[0]


def _type_of(graph: Graph, node: Node, known: Mapping[str, TensorType]) -> TensorType:
    if node.op == "input":
        return graph.inputs[node.name]
    if node.op == "tensor":
        stored = graph.stored[node.target or ""]
        return TensorType(stored.shape, stored.dtype)
    inputs = [known[name] for name in node.inputs]
    if node.op == "module":
        module: Module = graph.module_of(node)
        if module.kind not in MODULES:
            raise UnsupportedOperator(f"module {node.target} is a {module.kind}, not in the table")
        kind = MODULES[module.kind]
        held = [graph.stored[f"{node.target}.{name}"].dtype for name in kind.tensors(module.args)]
        types = [dtype for dtype in held if dtype in FLOATS]
        if module.kind != "Embedding":
            types.append(inputs[0].dtype)
        elif inputs[0].dtype not in ("int64", "int32"):
            raise FormatError(f"an embedding cannot look up {inputs[0].dtype}")
        shape = kind.shape(inputs, module.args)
        return TensorType(shape, _element_type(module.kind, types))
    if node.op not in OPERATORS:
        raise UnsupportedOperator(f"node {node.name} is a {node.op}, not in the table")
    operator = OPERATORS[node.op]
    least, most = operator.inputs
    if not least <= len(inputs) <= most:
        raise FormatError(f"node {node.name} ({node.op}) reads {len(inputs)} tensors")
    shape = operator.shape(inputs, node.attrs)
    types = [item.dtype for item in inputs]
    if node.op == "attention" and types[-1] == "bool":
        types = types[:3]
    if node.op == "masked_fill":
        if types[1] != "bool":
            raise FormatError(f"a mask must hold truth values, not {types[1]}")
        types = types[:1]
    return TensorType(shape, _element_type(node.op, types, moves=node.op in _MOVES))


def _bounded(node: Node, kind: TensorType, largest: int) -> TensorType:
    for dim in kind.shape:
        if size(dim) < 1 or size(dim) > largest:
            raise FormatError(f"its shape {kind.shape} is impossible")
    if len(kind.shape) > 16 or kind.per_example() > largest:
        raise LimitExceeded(
            f"node {node.name} ({node.op}) has shape {kind.shape}; "
            f"the limit is {largest} elements for one example"
        )
    return kind


def infer(graph: Graph, largest: int = 2**40) -> dict[str, TensorType]:
    """Shape and element type of every node's tensor, by node name.

    Args:
        largest: elements that one tensor may have, for one example.
    Raises:
        LimitExceeded: a tensor is larger than that.
        FormatError: a node whose inputs do not fit it; the message names the node.
    """
    known: dict[str, TensorType] = {}
    for node in graph.nodes:
        try:
            known[node.name] = _bounded(node, _type_of(graph, node, known), largest)
        except (UnsupportedOperator, LimitExceeded):
            raise
        except (FormatError, KeyError, ValueError, IndexError, TypeError) as error:
            raise FormatError(f"node {node.name} ({node.op}): {error}") from error
    return known
