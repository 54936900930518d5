"""The closed set of operators: for each, its attributes and the shape of what it yields.

This table is the format. Packing refuses what is not in it, loading builds only from it, and the
coupling analysis has one rule for each of its entries (a test holds the three together).
Shapes are exact integers except for the batch, which stays free (`ir.Batch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from espalier.format.errors import FormatError, LimitExceeded, UnsupportedOperator
from espalier.format.ir import Attr, Batch, Dim, Graph, Module, Node, TensorType, size

Attrs = Mapping[str, Attr]
Shape = tuple[Dim, ...]
ShapeRule = Callable[[Sequence[TensorType], Attrs], Shape]


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


@dataclass(frozen=True, slots=True)
class ModuleKind:
    """A module with stored tensors.

    Attributes:
        args: the kind of each constructor argument, as in `Operator.attrs`.
        tensors: shapes of its stored tensors by local name (`weight`, `running_mean`, ...).
        shape: as for an operator, from the single input.
        buffers: which of the stored tensors are not trained.
    """

    args: Mapping[str, str]
    tensors: Callable[[Attrs], Mapping[str, tuple[int, ...]]]
    shape: ShapeRule
    buffers: frozenset[str] = frozenset()


# --- reading attributes -------------------------------------------------------------------------


def integer(attrs: Attrs, name: str) -> int:
    value = attrs[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"attribute {name} must be an integer, not {value!r}")
    return value


def integers(attrs: Attrs, name: str) -> tuple[int, ...]:
    value = attrs[name]
    if not isinstance(value, tuple) or not all(type(item) is int for item in value):
        raise FormatError(f"attribute {name} must be a list of integers, not {value!r}")
    return tuple(item for item in value if isinstance(item, int))


def dims(attrs: Attrs, name: str) -> Shape:
    value = attrs[name]
    if not isinstance(value, tuple):
        raise FormatError(f"attribute {name} must be a list of dimensions, not {value!r}")
    found: list[Dim] = []
    for item in value:
        if isinstance(item, float):
            raise FormatError(f"attribute {name} holds {item!r}, which is no dimension")
        found.append(item)
    return tuple(found)


def axis(value: int, rank: int) -> int:
    """A dimension's index counted from the front."""
    if not -rank <= value < rank:
        raise FormatError(f"dimension {value} is out of range for a tensor of rank {rank}")
    return value % rank


# --- shape rules --------------------------------------------------------------------------------


def _same(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    return inputs[0].shape


def _along(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    axis(integer(attrs, "dim"), len(inputs[0].shape))
    return inputs[0].shape


def broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = []
    for index in range(rank):
        dim: Dim = 1
        for shape in shapes:
            offset = index - (rank - len(shape))
            other = shape[offset] if offset >= 0 else 1
            if other == 1 or other == dim:
                continue
            if dim != 1:
                raise FormatError(f"shapes {shapes} do not broadcast")
            dim = other
        result.append(dim)
    return tuple(result)


def _elementwise(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    if (len(inputs) == 1) == (attrs["scalar"] is None):
        raise FormatError("an elementwise operator takes two tensors, or one and a scalar")
    return broadcast([item.shape for item in inputs])


def _matmul(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    left, right = inputs[0].shape, inputs[1].shape
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise FormatError(f"cannot multiply matrices of shapes {left} and {right}")
    return (*broadcast([left[:-2], right[:-2]]), left[-2], right[-1])


def _linear(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, weight = inputs[0].shape, inputs[1].shape
    if len(weight) != 2 or source[-1] != weight[1]:
        raise FormatError(f"a linear map of shape {weight} does not fit an input {source}")
    return (*source[:-1], weight[0])


def _attention(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    query, key, value = (item.shape for item in inputs[:3])
    if query[-1] != key[-1] or key[-2] != value[-2]:
        raise FormatError(f"attention over {query}, {key}, {value} does not fit")
    lead = broadcast([query[:-2], key[:-2], value[:-2]])
    return (*lead, query[-2], value[-1])


def window(
    length: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil: bool = False
) -> int:
    """Positions of a sliding window, as torch counts them."""
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0 or stride < 1:
        raise FormatError(f"a window of {kernel} (dilation {dilation}) does not fit {length}")
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= length + padding:
        count -= 1
    return count


def _pool(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    kernel, stride = integers(attrs, "kernel"), integers(attrs, "stride")
    padding = integers(attrs, "padding")
    dilation = integers(attrs, "dilation") if "dilation" in attrs else (1,) * len(kernel)
    shape = inputs[0].shape
    rank = len(kernel)
    if not rank == len(stride) == len(padding) == len(dilation) == len(shape) - 2:
        raise FormatError(f"pooling over {rank} dimensions does not fit {shape}")
    spatial = tuple(
        window(size(dim), k, s, p, d, ceil=bool(attrs["ceil_mode"]))
        for dim, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    return (*shape[:2], *spatial)


def _adaptive(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    out = integers(attrs, "output_size")
    shape = inputs[0].shape
    if len(out) != len(shape) - 2:
        raise FormatError(f"adaptive pooling to {out} does not fit {shape}")
    return (*shape[:2], *out)


def _reduce(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    gone = {axis(dim, len(shape)) for dim in integers(attrs, "dims")}
    if attrs["keepdim"]:
        return tuple(1 if i in gone else dim for i, dim in enumerate(shape))
    return tuple(dim for i, dim in enumerate(shape) if i not in gone)


def _batches(shape: Shape) -> int:
    return sum(isinstance(dim, Batch) for dim in shape)


def _reshape(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, target = inputs[0].shape, dims(attrs, "shape")
    if math.prod(map(size, source)) != math.prod(map(size, target)) or _batches(source) != _batches(
        target
    ):
        raise FormatError(f"cannot reshape {source} to {target}")
    return target


def _permute(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, order = inputs[0].shape, integers(attrs, "dims")
    if sorted(order) != list(range(len(shape))):
        raise FormatError(f"{order} does not permute a tensor of rank {len(shape)}")
    return tuple(shape[i] for i in order)


def _expand(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    source, target = inputs[0].shape, dims(attrs, "shape")
    if len(target) < len(source) or broadcast([source, target]) != target:
        raise FormatError(f"cannot expand {source} to {target}")
    return target


def _cat(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    first = inputs[0].shape
    at = axis(integer(attrs, "dim"), len(first))
    total = 0
    for item in inputs:
        shape = item.shape
        if len(shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != at
        ):
            raise FormatError(f"cannot concatenate {[i.shape for i in inputs]} along {at}")
        dim = shape[at]
        if isinstance(dim, Batch):
            raise FormatError("cannot concatenate along the batch")
        total += dim
    return (*first[:at], total, *first[at + 1 :])


def _slice(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    at = axis(integer(attrs, "dim"), len(shape))
    dim, start = shape[at], integer(attrs, "start")
    stop, step = integer(attrs, "stop"), integer(attrs, "step")
    if isinstance(dim, Batch):
        raise FormatError("cannot slice the batch")
    if not (0 <= start < stop <= dim and step >= 1):
        raise FormatError(f"slice {start}:{stop}:{step} does not fit a dimension of {dim}")
    return (*shape[:at], -(-(stop - start) // step), *shape[at + 1 :])


def _select(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape = inputs[0].shape
    at, index = axis(integer(attrs, "dim"), len(shape)), integer(attrs, "index")
    dim = shape[at]
    if isinstance(dim, Batch) or not 0 <= index < dim:
        raise FormatError(f"cannot select {index} from a dimension of {dim}")
    return (*shape[:at], *shape[at + 1 :])


def _pad(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, pads = list(inputs[0].shape), integers(attrs, "pads")
    if len(pads) % 2 or len(pads) > 2 * len(shape):
        raise FormatError(f"padding {pads} does not fit a tensor of rank {len(shape)}")
    for i in range(len(pads) // 2):
        before, after = pads[2 * i], pads[2 * i + 1]
        at = len(shape) - 1 - i
        dim = shape[at]
        if isinstance(dim, Batch):
            if before or after:
                raise FormatError("cannot pad the batch")
            continue
        if before < -dim or after < -dim or dim + before + after < 1:
            raise FormatError(f"padding {pads} leaves nothing of a dimension of {dim}")
        shape[at] = dim + before + after
    return tuple(shape)


def _pixel_shuffle(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    (n, c, h, w), r = inputs[0].shape, integer(attrs, "factor")
    if r < 1 or size(c) % (r * r):
        raise FormatError(f"{c} channels cannot be shuffled into {r}x{r} pixels")
    return (n, size(c) // (r * r), size(h) * r, size(w) * r)


def _pixel_unshuffle(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    (n, c, h, w), r = inputs[0].shape, integer(attrs, "factor")
    if r < 1 or size(h) % r or size(w) % r:
        raise FormatError(f"{h}x{w} pixels cannot be gathered by {r}x{r}")
    return (n, size(c) * r * r, size(h) // r, size(w) // r)


def _interpolate(inputs: Sequence[TensorType], attrs: Attrs) -> Shape:
    shape, out = inputs[0].shape, integers(attrs, "size")
    if len(out) != len(shape) - 2 or min(out) < 1:
        raise FormatError(f"cannot resize {shape} to {out}")
    return (*shape[:2], *out)


_UNARY: dict[str, dict[str, str]] = {
    **{name: {} for name in ("relu", "relu6", "silu", "mish", "sigmoid", "tanh", "hardswish")},
    **{name: {} for name in ("hardsigmoid", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "erf")},
    **{name: {} for name in ("reciprocal", "square")},
    # Values are the same in either memory layout; kernels that follow may differ in the last bit.
    "contiguous": {"channels_last": "bool"},
    "hardtanh": {"min": "float", "max": "float"},
    "clamp": {"min": "float?", "max": "float?"},
    "leaky_relu": {"slope": "float"},
    "elu": {"alpha": "float"},
    "gelu": {"approximate": "str"},
    "softplus": {"beta": "float", "threshold": "float"},
    "dropout": {"p": "float"},
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
    **{name: Operator((1, 1), attrs, _same) for name, attrs in _UNARY.items()},
    **{
        name: Operator((1, 2), _SCALAR, _elementwise)
        for name in ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
    },
    "softmax": Operator((1, 1), {"dim": "int"}, _along),
    "log_softmax": Operator((1, 1), {"dim": "int"}, _along),
    "matmul": Operator((2, 2), {}, _matmul),
    "linear": Operator((2, 3), {}, _linear),  # weights that are not a Linear module's own
    "layer_norm": Operator((1, 3), {"shape": "ints", "eps": "float"}, _same),
    "attention": Operator(
        (3, 4), {"scale": "float?", "causal": "bool", "dropout": "float"}, _attention
    ),
    "max_pool1d": Operator((1, 1), _MAX_POOL, _pool),
    "max_pool2d": Operator((1, 1), _MAX_POOL, _pool),
    "avg_pool1d": Operator((1, 1), _AVG_POOL, _pool),
    "avg_pool2d": Operator((1, 1), _AVG_POOL, _pool),
    **{
        f"adaptive_{kind}_pool{rank}d": Operator((1, 1), {"output_size": "ints"}, _adaptive)
        for kind in ("avg", "max")
        for rank in (1, 2)
    },
    **{name: Operator((1, 1), _REDUCE, _reduce) for name in ("mean", "sum", "amax", "amin")},
    "var": Operator((1, 1), {**_REDUCE, "correction": "float"}, _reduce),
    "reshape": Operator((1, 1), {"shape": "dims"}, _reshape),  # view, flatten, (un)squeeze, ...
    "permute": Operator((1, 1), {"dims": "ints"}, _permute),
    "expand": Operator((1, 1), {"shape": "dims"}, _expand),
    "cat": Operator((1, 4096), {"dim": "int"}, _cat),
    "slice": Operator((1, 1), {"dim": "int", "start": "int", "stop": "int", "step": "int"}, _slice),
    "select": Operator((1, 1), {"dim": "int", "index": "int"}, _select),
    "pad": Operator((1, 1), {"pads": "ints", "mode": "str", "value": "float"}, _pad),
    "roll": Operator((1, 1), {"shifts": "ints", "dims": "ints"}, _same),
    "pixel_shuffle": Operator((1, 1), {"factor": "int"}, _pixel_shuffle),
    "pixel_unshuffle": Operator((1, 1), {"factor": "int"}, _pixel_unshuffle),
    "interpolate": Operator(
        (1, 1), {"size": "ints", "mode": "str", "align_corners": "bool?"}, _interpolate
    ),
}


# --- modules ------------------------------------------------------------------------------------


def _conv(rank: int, *, transposed: bool = False) -> ModuleKind:
    spatial = ("kernel_size", "stride", "padding", "dilation")
    args = {"in_channels": "int", "out_channels": "int", "groups": "int", "bias": "bool"}
    args |= dict.fromkeys(spatial, "ints") | {"padding_mode": "str"}
    if transposed:
        args["output_padding"] = "ints"

    def tensors(a: Attrs) -> Mapping[str, tuple[int, ...]]:
        c_in, c_out, groups = (integer(a, n) for n in ("in_channels", "out_channels", "groups"))
        if groups < 1 or c_in % groups or c_out % groups:
            raise FormatError(f"{groups} groups do not divide {c_in} and {c_out} channels")
        pair = (c_in, c_out // groups) if transposed else (c_out, c_in // groups)
        weight = (*pair, *integers(a, "kernel_size"))
        return {"weight": weight, "bias": (c_out,)} if a["bias"] else {"weight": weight}

    def shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
        source = inputs[0].shape
        c_in, c_out = integer(a, "in_channels"), integer(a, "out_channels")
        kernel, stride, padding, dilation = (integers(a, name) for name in spatial)
        lengths = {len(kernel), len(stride), len(padding), len(dilation), len(source) - 2}
        if lengths != {rank} or source[1] != c_in:
            raise FormatError(f"a convolution of {c_in} channels does not fit {source}")
        sizes = [size(dim) for dim in source[2:]]
        if transposed:
            extra = integers(a, "output_padding")
            out = [
                (n - 1) * s - 2 * p + d * (k - 1) + e + 1
                for n, k, s, p, d, e in zip(
                    sizes, kernel, stride, padding, dilation, extra, strict=True
                )
            ]
            if min(out) < 1:
                raise FormatError(f"the transposed convolution leaves nothing of {source}")
        else:
            out = [
                window(n, k, s, p, d)
                for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True)
            ]
        return (source[0], c_out, *out)

    return ModuleKind(args, tensors, shape)


def _norm(tensors: tuple[str, ...], channels: str, extra: Mapping[str, str]) -> ModuleKind:
    def stored(a: Attrs) -> Mapping[str, tuple[int, ...]]:
        affine = bool(a["affine"])
        tracked = bool(a.get("track_running_stats", False))
        shapes: dict[str, tuple[int, ...]] = {}
        for name in tensors:
            if (name in ("weight", "bias") and affine) or (name.startswith("running") and tracked):
                shapes[name] = (integer(a, channels),)
            elif name == "num_batches_tracked" and tracked:
                shapes[name] = ()
        return shapes

    def shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
        source = inputs[0].shape
        if len(source) < 2 or source[1] != integer(a, channels):
            raise FormatError(f"normalisation of {a[channels]} channels does not fit {source}")
        return source

    args = {channels: "int", "eps": "float", "affine": "bool", **extra}
    return ModuleKind(
        args, stored, shape, frozenset({"running_mean", "running_var", "num_batches_tracked"})
    )


def _layer_norm_tensors(a: Attrs) -> Mapping[str, tuple[int, ...]]:
    if not a["elementwise_affine"]:
        return {}
    shape = integers(a, "normalized_shape")
    return {"weight": shape, "bias": shape} if a["bias"] else {"weight": shape}


def _layer_norm_shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
    source, tail = inputs[0].shape, integers(a, "normalized_shape")
    if not tail or source[-len(tail) :] != tail:
        raise FormatError(f"layer normalisation over {tail} does not fit {source}")
    return source


def _linear_tensors(a: Attrs) -> Mapping[str, tuple[int, ...]]:
    weight = (integer(a, "out_features"), integer(a, "in_features"))
    return {"weight": weight, "bias": weight[:1]} if a["bias"] else {"weight": weight}


def _linear_module(inputs: Sequence[TensorType], a: Attrs) -> Shape:
    source = inputs[0].shape
    if source[-1] != integer(a, "in_features"):
        raise FormatError(f"a linear map of {a['in_features']} features does not fit {source}")
    return (*source[:-1], integer(a, "out_features"))


def _embedding_shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
    return (*inputs[0].shape, integer(a, "embedding_dim"))


def _no_tensors(a: Attrs) -> Mapping[str, tuple[int, ...]]:
    return {}


_BATCH_NORM = _norm(
    ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    "num_features",
    {"momentum": "float?", "track_running_stats": "bool"},
)
_INSTANCE_NORM = _norm(("weight", "bias"), "num_features", {})

MODULES: Mapping[str, ModuleKind] = {
    "Conv1d": _conv(1),
    "Conv2d": _conv(2),
    "ConvTranspose1d": _conv(1, transposed=True),
    "ConvTranspose2d": _conv(2, transposed=True),
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "InstanceNorm2d": _INSTANCE_NORM,
    "GroupNorm": _norm(("weight", "bias"), "num_channels", {"num_groups": "int"}),
    "LayerNorm": ModuleKind(
        {"normalized_shape": "ints", "eps": "float", "elementwise_affine": "bool", "bias": "bool"},
        _layer_norm_tensors,
        _layer_norm_shape,
    ),
    "Linear": ModuleKind(
        {"in_features": "int", "out_features": "int", "bias": "bool"},
        _linear_tensors,
        _linear_module,
    ),
    "Embedding": ModuleKind(
        {"num_embeddings": "int", "embedding_dim": "int", "padding_idx": "int?"},
        lambda a: {"weight": (integer(a, "num_embeddings"), integer(a, "embedding_dim"))},
        _embedding_shape,
    ),
    "Dropout": ModuleKind({"p": "float"}, _no_tensors, _same),
    "PReLU": ModuleKind(
        {"num_parameters": "int"},
        lambda a: {"weight": (integer(a, "num_parameters"),)},
        _same,
    ),
}


# --- the whole graph ----------------------------------------------------------------------------


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
        dtype = inputs[0].dtype
        if module.kind == "Embedding":
            dtype = graph.stored[f"{node.target}.weight"].dtype
        return TensorType(MODULES[module.kind].shape(inputs, module.args), dtype)
    if node.op not in OPERATORS:
        raise UnsupportedOperator(f"node {node.name} is a {node.op}, not in the table")
    operator = OPERATORS[node.op]
    least, most = operator.inputs
    if not least <= len(inputs) <= most:
        raise FormatError(f"node {node.name} ({node.op}) reads {len(inputs)} tensors")
    return TensorType(operator.shape(inputs, node.attrs), inputs[0].dtype)


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
