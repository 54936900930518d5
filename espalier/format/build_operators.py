"""How each operator of the table is executed: a function of torch, and its arguments.

Nothing in a file chooses a function: the name of an operator is looked up here and nowhere else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from espalier.format.ir import Attr, Batch
from espalier.format.operators import integer

Attrs = Mapping[str, Attr]
Values = Sequence[fx.Node]
Resolve = Callable[[Attr], tuple[Any, ...]]
"""Turns a shape into what the traced code computes: batch multiples become nodes."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the generated code."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


Emit = Callable[[Values, Attrs, Resolve], Call]


def _unary(function: Callable[..., Any], **names: str) -> Emit:
    """A function of one tensor; `names` maps its keywords to attributes."""

    def emit(values: Values, attrs: Attrs, _: Resolve) -> Call:
        return Call(function, (values[0],), {key: attrs[name] for key, name in names.items()})

    return emit


def _all(function: Callable[..., Any]) -> Emit:
    """A function of all the tensors, in order."""

    def emit(values: Values, _attrs: Attrs, _: Resolve) -> Call:
        return Call(function, tuple(values), {})

    return emit


def _arithmetic(function: Callable[..., Any]) -> Emit:
    def emit(values: Values, attrs: Attrs, _: Resolve) -> Call:
        if len(values) == 2:
            return Call(function, (values[0], values[1]), {})
        pair = (values[0], attrs["scalar"])
        return Call(function, pair[::-1] if attrs["reversed"] else pair, {})

    return emit


def _extreme(function: Callable[..., Any], bound: str) -> Emit:
    def emit(values: Values, attrs: Attrs, _: Resolve) -> Call:
        if len(values) == 2:
            return Call(function, (values[0], values[1]), {})
        return Call(torch.clamp, (values[0],), {bound: attrs["scalar"]})

    return emit


def _contiguous(values: Values, attrs: Attrs, _: Resolve) -> Call:
    layout = torch.channels_last if attrs["channels_last"] else torch.contiguous_format
    return Call(torch.Tensor.contiguous, (values[0],), {"memory_format": layout})


def _layer_norm(values: Values, attrs: Attrs, _: Resolve) -> Call:
    return Call(F.layer_norm, (values[0], attrs["shape"], *values[1:]), {"eps": attrs["eps"]})


def _attention(values: Values, attrs: Attrs, _: Resolve) -> Call:
    keywords = {"scale": attrs["scale"], "is_causal": attrs["causal"]}
    return Call(F.scaled_dot_product_attention, tuple(values), keywords)


def _pooling(function: Callable[..., Any]) -> Emit:
    return _unary(
        function,
        kernel_size="kernel",
        stride="stride",
        padding="padding",
        dilation="dilation",
        ceil_mode="ceil_mode",
    )


def _average(function: Callable[..., Any], *extra: str) -> Emit:
    names = {"kernel_size": "kernel", "divisor_override": "divisor"}
    plain = ("stride", "padding", "ceil_mode", "count_include_pad")
    return _unary(
        function,
        kernel_size="kernel",
        **{name: name for name in plain},
        **{name: names[name] for name in extra},
    )


def free_size(shape: Attr) -> Attr:
    """A shape with -1 for its only size above one: torch finds that size by itself.

    So the code of a network does not depend on how many channels are flattened or broadcast,
    and stays the same when some are cut.
    """
    if not isinstance(shape, tuple) or not has_batch(shape):
        return shape
    sizes = [at for at, dim in enumerate(shape) if isinstance(dim, int) and dim > 1]
    if len(sizes) != 1:
        return shape
    return (*shape[: sizes[0]], -1, *shape[sizes[0] + 1 :])


def _reshape(values: Values, attrs: Attrs, resolve: Resolve) -> Call:
    return Call(torch.reshape, (values[0], resolve(free_size(attrs["shape"]))), {})


def _expand(values: Values, attrs: Attrs, resolve: Resolve) -> Call:
    return Call(torch.Tensor.expand, (values[0], resolve(attrs["shape"])), {})


def _cat(values: Values, attrs: Attrs, _: Resolve) -> Call:
    return Call(torch.cat, (list(values),), {"dim": attrs["dim"]})


def _slice(values: Values, attrs: Attrs, _: Resolve) -> Call:
    dim = integer(attrs, "dim")
    cut = slice(attrs["start"], attrs["stop"], attrs["step"])
    return Call(operator.getitem, (values[0], (*[slice(None)] * dim, cut)), {})


def _pad(values: Values, attrs: Attrs, _: Resolve) -> Call:
    # Only constant padding takes a value.
    value = {"value": attrs["value"]} if attrs["mode"] == "constant" else {}
    return Call(F.pad, (values[0], attrs["pads"]), {"mode": attrs["mode"], **value})


def _masked_fill(values: Values, attrs: Attrs, _: Resolve) -> Call:
    return Call(torch.masked_fill, (values[0], values[1], attrs["value"]), {})


FUNCTIONS: Mapping[str, Emit] = {
    "relu": _unary(F.relu),
    "relu6": _unary(F.relu6),
    "silu": _unary(F.silu),
    "mish": _unary(F.mish),
    "hardswish": _unary(F.hardswish),
    "hardsigmoid": _unary(F.hardsigmoid),
    "sigmoid": _unary(torch.sigmoid),
    "tanh": _unary(torch.tanh),
    "exp": _unary(torch.exp),
    "log": _unary(torch.log),
    "sqrt": _unary(torch.sqrt),
    "rsqrt": _unary(torch.rsqrt),
    "abs": _unary(torch.abs),
    "neg": _unary(torch.neg),
    "erf": _unary(torch.erf),
    "reciprocal": _unary(torch.reciprocal),
    "square": _unary(torch.square),
    "selu": _unary(F.selu),
    "logsigmoid": _unary(F.logsigmoid),
    "sin": _unary(torch.sin),
    "cos": _unary(torch.cos),
    "log1p": _unary(torch.log1p),
    "expm1": _unary(torch.expm1),
    "celu": _unary(F.celu, alpha="alpha"),
    "hardshrink": _unary(F.hardshrink, lambd="lambd"),
    "softshrink": _unary(F.softshrink, lambd="lambd"),
    "threshold": _unary(F.threshold, threshold="threshold", value="value"),
    "contiguous": _contiguous,
    "hardtanh": _unary(F.hardtanh, min_val="min", max_val="max"),
    "clamp": _unary(torch.clamp, min="min", max="max"),
    "leaky_relu": _unary(F.leaky_relu, negative_slope="slope"),
    "elu": _unary(F.elu, alpha="alpha"),
    "gelu": _unary(F.gelu, approximate="approximate"),
    "softplus": _unary(F.softplus, beta="beta", threshold="threshold"),
    # They switch with `.train()`: outside of training, this is all they do.
    "dropout": _all(torch.nn.Identity()),
    "feature_dropout": _all(torch.nn.Identity()),
    "attention": _attention,
    "masked_fill": _masked_fill,
    "add": _arithmetic(operator.add),
    "sub": _arithmetic(operator.sub),
    "mul": _arithmetic(operator.mul),
    "div": _arithmetic(operator.truediv),
    "pow": _arithmetic(operator.pow),
    "maximum": _extreme(torch.maximum, "min"),
    "minimum": _extreme(torch.minimum, "max"),
    "softmax": _unary(torch.softmax, dim="dim"),
    "log_softmax": _unary(torch.log_softmax, dim="dim"),
    "matmul": _all(torch.matmul),
    "linear": _all(F.linear),
    "layer_norm": _layer_norm,
    "max_pool1d": _pooling(F.max_pool1d),
    "max_pool2d": _pooling(F.max_pool2d),
    "max_pool3d": _pooling(F.max_pool3d),
    "avg_pool3d": _average(F.avg_pool3d, "divisor_override"),
    "adaptive_avg_pool3d": _unary(F.adaptive_avg_pool3d, output_size="output_size"),
    "avg_pool1d": _average(F.avg_pool1d),
    "avg_pool2d": _average(F.avg_pool2d, "divisor_override"),
    "adaptive_avg_pool1d": _unary(F.adaptive_avg_pool1d, output_size="output_size"),
    "adaptive_avg_pool2d": _unary(F.adaptive_avg_pool2d, output_size="output_size"),
    "adaptive_max_pool1d": _unary(F.adaptive_max_pool1d, output_size="output_size"),
    "adaptive_max_pool2d": _unary(F.adaptive_max_pool2d, output_size="output_size"),
    "mean": _unary(torch.mean, dim="dims", keepdim="keepdim"),
    "sum": _unary(torch.sum, dim="dims", keepdim="keepdim"),
    "amax": _unary(torch.amax, dim="dims", keepdim="keepdim"),
    "amin": _unary(torch.amin, dim="dims", keepdim="keepdim"),
    "var": _unary(torch.var, dim="dims", keepdim="keepdim", correction="correction"),
    "std": _unary(torch.std, dim="dims", keepdim="keepdim", correction="correction"),
    "norm": _unary(torch.linalg.vector_norm, ord="order", dim="dims", keepdim="keepdim"),
    "reshape": _reshape,
    "permute": _unary(torch.permute, dims="dims"),
    "expand": _expand,
    "cat": _cat,
    "slice": _slice,
    "select": _unary(torch.select, dim="dim", index="index"),
    "pad": _pad,
    "roll": _unary(torch.roll, shifts="shifts", dims="dims"),
    "flip": _unary(torch.flip, dims="dims"),
    "pixel_shuffle": _unary(F.pixel_shuffle, upscale_factor="factor"),
    "pixel_unshuffle": _unary(F.pixel_unshuffle, downscale_factor="factor"),
    "interpolate": _unary(F.interpolate, size="size", mode="mode", align_corners="align_corners"),
}


def has_batch(shape: Attr) -> bool:
    """Whether a shape mentions the batch."""
    return isinstance(shape, tuple) and any(isinstance(dim, Batch) for dim in shape)
