"""Exported calls that become operators of the table: arithmetic, activations, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from espalier.format.ir import Attr
from espalier.format.lift_context import (
    Handler,
    Lifting,
    Split,
    Value,
    arguments,
    made,
    unsupported,
)

aten = torch.ops.aten

Read = Callable[[Mapping[str, Any]], Mapping[str, Attr]]


def _nothing(_: Mapping[str, Any]) -> Mapping[str, Attr]:
    return {}


def _unary(op: str, read: Read = _nothing) -> Handler:
    """An operator of one tensor, the first argument; `read` gives its attributes."""

    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        return state.emit(node, op, (state.read(node.args[0], node),), read(a))

    return lift


def _number(value: object, node: fx.Node) -> float:
    if not isinstance(value, int | float):
        raise unsupported(node, "uses a number that depends on the batch size")
    return float(value)


def _arithmetic(op: str, *, swapped: bool = False) -> Handler:
    """Two tensors, or a tensor and a number on either side."""

    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        pair = list(node.args[:2])
        if swapped:
            pair.reverse()
        if a.get("alpha", 1) != 1:
            return _scaled(state, node, op, pair, a["alpha"])
        tensors = [isinstance(v, fx.Node) and _is_tensor(v) for v in pair]
        if all(tensors):
            inputs = tuple(state.read(value, node) for value in pair)
            return state.emit(node, op, inputs, {"scalar": None, "reversed": False})
        at = tensors.index(True)
        attrs = {"scalar": _number(pair[1 - at], node), "reversed": at == 1}
        return state.emit(node, op, (state.read(pair[at], node),), attrs)

    return lift


def _scaled(state: Lifting, node: fx.Node, op: str, pair: list[Any], alpha: object) -> str:
    """`a + alpha * b`: a product, then the sum; what torch does in one rounding more or less."""
    factor = {"scalar": _number(alpha, node), "reversed": False}
    if not isinstance(pair[1], fx.Node) or not _is_tensor(pair[1]):
        term = {"scalar": _number(pair[1], node) * _number(alpha, node), "reversed": False}
        return state.emit(node, op, (state.read(pair[0], node),), term)
    product = state.emit(node, "mul", (state.read(pair[1], node),), factor)
    if isinstance(pair[0], fx.Node):
        both = (state.read(pair[0], node), product)
        return state.emit(node, op, both, {"scalar": None, "reversed": False})
    term = {"scalar": _number(pair[0], node), "reversed": True}
    return state.emit(node, op, (product,), term)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _elu(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    if a["scale"] != 1 or a["input_scale"] != 1:
        raise unsupported(node, "with a scale is not in the operator table")
    return state.emit(node, "elu", (state.read(a["self"], node),), {"alpha": float(a["alpha"])})


def _rank(value: Any, rank: int) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    return items * rank if len(items) == 1 else items


def _max_pool(rank: int) -> Handler:
    def read(a: Mapping[str, Any]) -> Mapping[str, Attr]:
        kernel = _rank(a["kernel_size"], rank)
        return {
            "kernel": kernel,
            "stride": _rank(a["stride"], rank) if a["stride"] else kernel,
            "padding": _rank(a["padding"], rank),
            "dilation": _rank(a["dilation"], rank),
            "ceil_mode": a["ceil_mode"],
        }

    return _unary(f"max_pool{rank}d", read)


def _average_pool(rank: int) -> Handler:
    def read(a: Mapping[str, Any]) -> Mapping[str, Attr]:
        kernel = _rank(a["kernel_size"], rank)
        return {
            "kernel": kernel,
            "stride": _rank(a["stride"], rank) if a["stride"] else kernel,
            "padding": _rank(a["padding"], rank),
            "ceil_mode": a["ceil_mode"],
            "count_include_pad": a["count_include_pad"],
            "divisor": a.get("divisor_override"),
        }

    return _unary(f"avg_pool{rank}d", read)


def _adaptive(kind: str, rank: int) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> Value:
        value = node.meta["val"]
        first = value if isinstance(value, torch.Tensor) else value[0]
        out = tuple(state.dim(size, node) for size in first.shape[-rank:])
        source = state.read(node.args[0], node)
        return state.emit(node, f"adaptive_{kind}_pool{rank}d", (source,), {"output_size": out})

    return lift


def _reduced(value: Any, rank: int) -> tuple[int, ...]:
    dims = [value] if isinstance(value, int) else list(value or range(rank))
    return tuple(dim % rank for dim in dims)


def _reduction(op: str) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        if a.get("dtype") is not None:
            raise unsupported(node, "with a change of element type is not in the operator table")
        rank = len(state.shape(a["self"]))
        attrs: dict[str, Attr] = {
            "dims": _reduced(a.get("dim"), rank),
            "keepdim": a.get("keepdim", False),
        }
        if op in ("var", "std"):
            correction = a.get("correction", float(a.get("unbiased", True)))
            attrs["correction"] = 1.0 if correction is None else float(correction)
        return state.emit(node, op, (state.read(a["self"], node),), attrs)

    return lift


def _moments(op: str) -> Handler:
    """`var_mean`, `std_mean`: two reductions."""

    def lift(state: Lifting, node: fx.Node) -> Split:
        reductions = (_reduction(op), _reduction("mean"))
        return made(tuple(str(reduce(state, node)) for reduce in reductions))

    return lift


def _norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    rank = len(state.shape(a["self"]))
    attrs: dict[str, Attr] = {
        "order": _number(a["ord"], node),
        "dims": _reduced(a["dim"], rank),
        "keepdim": a["keepdim"],
    }
    if a["dtype"] is not None:
        raise unsupported(node, "with a change of element type is not in the operator table")
    return state.emit(node, "norm", (state.read(a["self"], node),), attrs)


def _glu(state: Lifting, node: fx.Node) -> str:
    """One half times the sigmoid of the other."""
    a = arguments(node)
    source, shape = state.read(a["self"], node), state.shape(a["self"])
    dim = a["dim"] % len(shape)
    half = int(state.shape(node)[dim])
    halves = [
        state.emit(node, "slice", (source,), {"dim": dim, "start": s, "stop": s + half, "step": 1})
        for s in (0, half)
    ]
    gate = state.emit(node, "sigmoid", (halves[1],))
    return state.emit(node, "mul", (halves[0], gate), {"scalar": None, "reversed": False})


def _masked_fill(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    pair = (state.read(a["self"], node), state.read(a["mask"], node))
    return state.emit(node, "masked_fill", pair, {"value": _number(a["value"], node)})


def _along(op: str) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        if a["dtype"] is not None and a["dtype"] != a["self"].meta["val"].dtype:
            raise unsupported(node, "with a change of element type is not in the operator table")
        dim = a["dim"] % len(state.shape(a["self"]))
        return state.emit(node, op, (state.read(a["self"], node),), {"dim": dim})

    return lift


def _tensors(op: str, count: int) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> str:
        return state.emit(node, op, tuple(state.read(v, node) for v in node.args[:count]))

    return lift


def _attention(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    if a["enable_gqa"]:
        raise unsupported(node, "with enable_gqa is not carried: repeat the keys and values")
    if a["dropout_p"]:
        raise unsupported(node, "drops weights in eval mode too: pass 0.0 unless self.training")
    given = [a["query"], a["key"], a["value"]]
    if a["attn_mask"] is not None:
        given.append(a["attn_mask"])
    owner = state.owner(node, torch.nn.MultiheadAttention)
    dropout = owner[1].dropout if owner else 0.0  # switched off while exporting
    attrs = {
        "scale": _optional(a["scale"]),
        "causal": a["is_causal"],
        "dropout": float(dropout) if isinstance(dropout, int | float) else 0.0,
    }
    return state.emit(node, "attention", tuple(state.read(v, node) for v in given), attrs)


def _pad(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    pads = tuple(a["pad"])
    if not all(isinstance(item, int) for item in pads):
        raise unsupported(node, "pads by a size that depends on the batch")
    attrs: dict[str, Attr] = {
        "pads": pads,
        "mode": a.get("mode", "constant"),
        "value": float(a["value"] or 0.0),
    }
    return state.emit(node, "pad", (state.read(node.args[0], node),), attrs)


def _resize(mode: str) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        spatial = node.meta["val"].ndim - 2
        source = state.shape(a["input"])[2:]
        out = state.shape(node)[2:]
        for n, m, scale in zip(source, out, a["scale_factors"] or (), strict=False):
            # A scale that does not divide is used as it is by torch, not as size over size.
            if not isinstance(n, int) or not isinstance(m, int) or not math.isclose(m, n * scale):
                raise unsupported(node, f"by {scale} does not give whole sizes: pass size=")
        sizes = tuple(dim for dim in out if isinstance(dim, int))
        if len(sizes) != spatial:
            raise unsupported(node, "resizes the batch")
        attrs = {"size": sizes, "mode": mode, "align_corners": a.get("align_corners")}
        return state.emit(node, "interpolate", (state.read(a["input"], node),), attrs)

    return lift


def _layout(state: Lifting, node: fx.Node) -> str:
    chosen = arguments(node).get("memory_format")
    source = state.read(node.args[0], node)
    if chosen in (None, torch.preserve_format):
        return source
    if chosen == 0:  # a schema's default comes as a number
        chosen = torch.contiguous_format
    if chosen not in (torch.contiguous_format, torch.channels_last):
        raise unsupported(node, f"to the layout {chosen} is not in the operator table")
    last = chosen == torch.channels_last
    return state.emit(node, "contiguous", (source,), {"channels_last": last})


_PLAIN = [
    "relu",
    "relu6",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "abs",
    "neg",
    "erf",
    "reciprocal",
    "square",
    "selu",
    "sin",
    "cos",
    "log1p",
    "expm1",
]


def _factor(a: Mapping[str, Any]) -> Mapping[str, Attr]:
    return {"factor": a["upscale_factor"] if "upscale_factor" in a else a["downscale_factor"]}


OPERATOR_CALLS: Mapping[Any, Handler] = {
    **{getattr(aten, name).default: _unary(name) for name in _PLAIN},
    aten.hardtanh.default: _unary(
        "hardtanh", lambda a: {"min": float(a["min_val"]), "max": float(a["max_val"])}
    ),
    aten.clamp.default: _unary(
        "clamp", lambda a: {"min": _optional(a["min"]), "max": _optional(a["max"])}
    ),
    aten.clamp_min.default: _unary("clamp", lambda a: {"min": float(a["min"]), "max": None}),
    aten.clamp_max.default: _unary("clamp", lambda a: {"min": None, "max": float(a["max"])}),
    aten.leaky_relu.default: _unary("leaky_relu", lambda a: {"slope": float(a["negative_slope"])}),
    aten.elu.default: _elu,
    aten.celu.default: _unary("celu", lambda a: {"alpha": float(a["alpha"])}),
    aten.log_sigmoid.default: _unary("logsigmoid"),
    aten.hardshrink.default: _unary("hardshrink", lambda a: {"lambd": float(a["lambd"])}),
    aten.softshrink.default: _unary("softshrink", lambda a: {"lambd": float(a["lambd"])}),
    aten.threshold.default: _unary(
        "threshold", lambda a: {"threshold": float(a["threshold"]), "value": float(a["value"])}
    ),
    aten.glu.default: _glu,
    aten.masked_fill.Scalar: _masked_fill,
    aten.gelu.default: _unary("gelu", lambda a: {"approximate": a["approximate"]}),
    aten.softplus.default: _unary(
        "softplus", lambda a: {"beta": float(a["beta"]), "threshold": float(a["threshold"])}
    ),
    aten.contiguous.default: _layout,
    aten.clone.default: _layout,
    aten.add.Tensor: _arithmetic("add"),
    aten.sub.Tensor: _arithmetic("sub"),
    aten.rsub.Scalar: _arithmetic("sub", swapped=True),
    aten.rsub.Tensor: _arithmetic("sub", swapped=True),
    aten.mul.Tensor: _arithmetic("mul"),
    aten.div.Tensor: _arithmetic("div"),
    aten.pow.Tensor_Scalar: _arithmetic("pow"),
    aten.pow.Tensor_Tensor: _arithmetic("pow"),
    aten.pow.Scalar: _arithmetic("pow"),
    aten.add.Scalar: _arithmetic("add"),
    aten.sub.Scalar: _arithmetic("sub"),
    aten.mul.Scalar: _arithmetic("mul"),
    aten.div.Scalar: _arithmetic("div"),
    aten.maximum.default: _arithmetic("maximum"),
    aten.minimum.default: _arithmetic("minimum"),
    aten.max.other: _arithmetic("maximum"),
    aten.min.other: _arithmetic("minimum"),
    aten.softmax.int: _along("softmax"),
    aten.log_softmax.int: _along("log_softmax"),
    aten.matmul.default: _tensors("matmul", 2),
    aten.bmm.default: _tensors("matmul", 2),
    aten.mm.default: _tensors("matmul", 2),
    aten.scaled_dot_product_attention.default: _attention,
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.avg_pool3d.default: _average_pool(3),
    aten.adaptive_avg_pool3d.default: _adaptive("avg", 3),
    aten.avg_pool1d.default: _average_pool(1),
    aten.avg_pool2d.default: _average_pool(2),
    aten.adaptive_avg_pool1d.default: _adaptive("avg", 1),
    aten.adaptive_avg_pool2d.default: _adaptive("avg", 2),
    aten.adaptive_max_pool1d.default: _adaptive("max", 1),
    aten.adaptive_max_pool2d.default: _adaptive("max", 2),
    aten.mean.dim: _reduction("mean"),
    aten.mean.default: _reduction("mean"),
    aten.sum.dim_IntList: _reduction("sum"),
    aten.amax.default: _reduction("amax"),
    aten.amin.default: _reduction("amin"),
    aten.var.correction: _reduction("var"),
    aten.var.dim: _reduction("var"),
    aten.std.correction: _reduction("std"),
    aten.std.dim: _reduction("std"),
    aten.var_mean.correction: _moments("var"),
    aten.var_mean.dim: _moments("var"),
    aten.std_mean.correction: _moments("std"),
    aten.std_mean.dim: _moments("std"),
    aten.max.dim: _reduction("amax"),  # values only; positions are refused where they are read
    aten.min.dim: _reduction("amin"),
    aten.max.default: _reduction("amax"),
    aten.min.default: _reduction("amin"),
    aten.linalg_vector_norm.default: _norm,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.pixel_shuffle.default: _unary("pixel_shuffle", _factor),
    aten.pixel_unshuffle.default: _unary("pixel_unshuffle", _factor),
    aten.upsample_nearest1d.vec: _resize("nearest"),
    aten.upsample_nearest2d.vec: _resize("nearest"),
    aten._upsample_nearest_exact1d.vec: _resize("nearest-exact"),
    aten._upsample_nearest_exact2d.vec: _resize("nearest-exact"),
    aten.upsample_linear1d.vec: _resize("linear"),
    aten.upsample_bilinear2d.vec: _resize("bilinear"),
    aten.upsample_bicubic2d.vec: _resize("bicubic"),
}
