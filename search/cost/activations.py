"""Which activations are alive when: the steps whose largest sum is the peak.

The nodes run in order, each writes a new tensor unless it is a view of another, and a tensor is
freed after the last node that reads it or a view of it. Inputs live from the start, outputs to
the end. Stored tensors are weights, not activations.

Whether `reshape` and `contiguous` copy depends on how a tensor lies in memory; that is followed
here for one example at full width, with torch's rules: element-wise operators, normalisations
and convolutions keep a dense input's order of dimensions, the others write in the usual order.
Where a plan leaves a single channel, some copies become views: there the peak is an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from espalier.format.ir import Graph, Node, TensorType, size
from espalier.format.operators import axis, infer, integer, integers
from search.cost.polynomial import Monomial, Polynomial, product
from search.cost.terms import Terms
from search.space import SearchSpace

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "float32": 4,
    "int64": 8,
    "float64": 8,
}
"""Bytes of one element, by the element type's name."""

_VIEWS = frozenset({"reshape", "permute", "expand", "slice", "select", "contiguous"})
_IDENTITIES = frozenset(
    {"dropout", "feature_dropout", "Dropout", "AlphaDropout", "Dropout1d", "Dropout2d"}
)  # when not training
_KEEPS_ORDER = frozenset(
    {"relu", "relu6", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "exp", "log"}
    | {"sqrt", "rsqrt", "abs", "neg", "erf", "reciprocal", "square", "hardtanh", "clamp", "elu"}
    | {"leaky_relu", "gelu", "softplus", "add", "sub", "mul", "div", "pow", "maximum", "minimum"}
    | {"selu", "celu", "logsigmoid", "sin", "cos", "log1p", "expm1", "hardshrink", "softshrink"}
    | {"threshold", "masked_fill", "BatchNorm1d", "BatchNorm2d", "PReLU"}
)
_KEEPS_CHANNELS_LAST = frozenset(
    {"Conv2d", "ConvTranspose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "interpolate"}
    | {"adaptive_max_pool2d", "GroupNorm", "cat", "pad", "roll", "flip"}
    | {"pixel_shuffle", "pixel_unshuffle"}
)
_CHANNELS_LAST = (0, 2, 3, 1)

# Only shape and strides of these arrays are ever looked at: each holds a single byte.
Layout = NDArray[np.int8]


def _layout(shape: Sequence[int], order: Sequence[int]) -> Layout:
    """A dense tensor whose dimensions lie in memory in `order`, the outermost first."""
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(1, shape[dim])
    return as_strided(np.empty(1, np.int8), tuple(shape), tuple(strides))


def _order(layout: Layout) -> tuple[int, ...]:
    return tuple(sorted(range(layout.ndim), key=lambda dim: -layout.strides[dim]))


def _index(layout: Layout, dim: int, index: int | slice) -> Layout:
    view: Layout = layout[(slice(None),) * axis(dim, layout.ndim) + (index,)]
    return view


def _view(node: Node, source: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The node's tensor as a view of what it reads; `None` where it has to copy."""
    match node.op:
        case "permute":
            return source.transpose(integers(node.attrs, "dims"))
        case "expand":
            return np.broadcast_to(source, shape)
        case "slice":
            start, stop, step = (integer(node.attrs, name) for name in ("start", "stop", "step"))
            return _index(source, integer(node.attrs, "dim"), slice(start, stop, step))
        case "select":
            return _index(source, integer(node.attrs, "dim"), integer(node.attrs, "index"))
        case "contiguous":
            dense = source.transpose(_order_of(node, source.ndim)).flags.c_contiguous
            return source if dense else None
    try:
        return np.reshape(source, shape, copy=False)
    except ValueError:  # numpy's rule for "would copy" is torch's
        return None


def _order_of(node: Node, rank: int) -> tuple[int, ...]:
    """The order in which a node writes where its inputs do not matter."""
    return _CHANNELS_LAST if node.attrs.get("channels_last") else tuple(range(rank))


def _written(node: Node, kind: str, sources: Sequence[Layout], shape: tuple[int, ...]) -> Layout:
    """The layout of a tensor that a node writes."""
    same = next((item for item in sources if item.shape == shape), None)
    if kind == "masked_fill" and any(item.shape != shape for item in sources):
        same = None
    if kind in _KEEPS_ORDER and same is not None and 0 not in same.strides:
        return _layout(shape, _order(same))
    if kind in _KEEPS_CHANNELS_LAST and all(_order(each) == _CHANNELS_LAST for each in sources):
        return _layout(shape, _CHANNELS_LAST)
    return _layout(shape, _order_of(node, len(shape)))


def bases(graph: Graph, types: Mapping[str, TensorType]) -> dict[str, str | None]:
    """The node that wrote the memory behind each node's tensor; `None` for stored tensors."""
    layouts: dict[str, Layout] = {}
    base: dict[str, str | None] = {}
    for node in graph.nodes:
        kind, shape = graph.kind_of(node), tuple(size(dim) for dim in types[node.name].shape)
        sources = [layouts[name] for name in node.inputs]
        view = _view(node, sources[0], shape) if kind in _VIEWS else None
        if kind in _IDENTITIES:
            view = sources[0]
        if view is not None:
            base[node.name] = base[node.inputs[0]]
        else:
            base[node.name] = None if node.op == "tensor" else node.name
            view = _written(node, kind, sources, shape)
        layouts[node.name] = view
    return base


def freed(graph: Graph, base: Mapping[str, str | None]) -> list[list[str]]:
    """For each node, the nodes whose memory is freed after it: it is the last to read that."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in (*node.inputs, node.name):
            if (owner := base[name]) is not None:
                last[owner] = index
    kept = {base[name] for name in graph.outputs}
    after: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        if name not in kept:
            after[index].append(name)
    return after


def steps(space: SearchSpace, terms: Terms) -> list[Polynomial]:
    """Bytes alive, for one example, as polynomials in the plan, wherever the next node has fewer.

    The sum is carried from node to node. Where nothing is freed, the next step has all that this
    one has, and no size is negative.

    Raises:
        NetworkTooLarge: they take more than `terms` allow.
    """
    graph, types = space.graph, infer(space.graph)
    base = bases(graph, types)
    sizes = {
        name: product(
            ITEM_BYTES[types[name].dtype],
            [extent.size for extent in space.node_shapes[name]],
            terms,
        )
        for name, owner in base.items()
        if owner == name
    }
    alive: dict[Monomial, int] = {}

    def add(name: str, sign: int) -> None:
        for monomial, coefficient in sizes[name].items():
            alive[monomial] = alive.get(monomial, 0) + sign * coefficient
            if not alive[monomial]:
                del alive[monomial]

    found: list[Polynomial] = []
    grown = True
    for name in graph.inputs:
        add(name, 1)
    for node, gone in zip(graph.nodes, freed(graph, base), strict=True):
        if base[node.name] == node.name and node.op != "input":
            add(node.name, 1)
            grown = True
        if grown and (gone or node is graph.nodes[-1]):
            terms.spend(len(alive))
            found.append(dict(alive))
            grown = False
        for name in gone:
            add(name, -1)
    return found
