"""The closed set of modules: arguments, tensors, and the shape of what each yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from espalier.format import shapes
from espalier.format.errors import FormatError
from espalier.format.ir import TensorType
from espalier.format.shapes import (
    Attrs,
    Shape,
    ShapeRule,
    examples_first,
    integer,
    integers,
    materialised,
    window,
)


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
        sizes = examples_first(source)[1:]
        if min(padding) < 0 or min(*kernel, *stride, *dilation) < 1:
            raise FormatError("a kernel, stride, padding or dilation of a convolution is negative")
        materialised((c_in, *(n + 2 * p for n, p in zip(sizes, padding, strict=True))))
        if transposed:
            extra = integers(a, "output_padding")
            most = map(max, stride, dilation)
            if len(extra) != rank or any(not 0 <= e < m for e, m in zip(extra, most, strict=True)):
                raise FormatError(f"an output padding of {extra} is too large for the stride")
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


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _norm(
    tensors: tuple[str, ...], channels: str, extra: Mapping[str, str], ranks: range
) -> ModuleKind:
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
        groups = integer(a, "num_groups") if "num_groups" in a else 1
        sizes = examples_first(source)
        if len(source) not in ranks or sizes[0] != integer(a, channels):
            raise FormatError(f"normalisation of {a[channels]} channels does not fit {source}")
        if groups < 1 or sizes[0] % groups:
            raise FormatError(f"{groups} groups do not divide {sizes[0]} channels")
        return source

    args = {channels: "int", "eps": "float", "affine": "bool", **extra}
    return ModuleKind(args, stored, shape, frozenset(_STATISTICS))


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


def _channels_dropped(rank: int) -> ShapeRule:
    def shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
        if len(inputs[0].shape) != rank:
            raise FormatError(f"dropping channels of {inputs[0].shape} needs {rank} dimensions")
        return shapes.dropped_whole(inputs, a)

    return shape


def _batch_norm(ranks: range) -> ModuleKind:
    extra = {"momentum": "float?", "track_running_stats": "bool"}
    return _norm(("weight", "bias", *_STATISTICS), "num_features", extra, ranks)


def _prelu_shape(inputs: Sequence[TensorType], a: Attrs) -> Shape:
    source, count = inputs[0].shape, integer(a, "num_parameters")
    if count != 1 and (len(source) < 2 or source[1] != count):
        raise FormatError(f"{count} slopes do not fit {source}")
    return source


MODULES: Mapping[str, ModuleKind] = {
    "Conv1d": _conv(1),
    "Conv2d": _conv(2),
    "Conv3d": _conv(3),
    "ConvTranspose1d": _conv(1, transposed=True),
    "ConvTranspose2d": _conv(2, transposed=True),
    "BatchNorm1d": _batch_norm(range(2, 4)),
    "BatchNorm2d": _batch_norm(range(4, 5)),
    "BatchNorm3d": _batch_norm(range(5, 6)),
    "InstanceNorm1d": _norm(("weight", "bias"), "num_features", {}, range(3, 4)),
    "InstanceNorm2d": _norm(("weight", "bias"), "num_features", {}, range(4, 5)),
    "GroupNorm": _norm(("weight", "bias"), "num_channels", {"num_groups": "int"}, range(2, 9)),
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
    "RMSNorm": ModuleKind(
        {"normalized_shape": "ints", "eps": "float?", "elementwise_affine": "bool"},
        lambda a: _layer_norm_tensors({**a, "bias": False}),
        _layer_norm_shape,
    ),
    "Dropout": ModuleKind({"p": "float"}, _no_tensors, shapes.dropped),
    "AlphaDropout": ModuleKind({"p": "float"}, _no_tensors, shapes.dropped),
    "Dropout1d": ModuleKind({"p": "float"}, _no_tensors, _channels_dropped(3)),
    "Dropout2d": ModuleKind({"p": "float"}, _no_tensors, _channels_dropped(4)),
    "PReLU": ModuleKind(
        {"num_parameters": "int"},
        lambda a: {"weight": (integer(a, "num_parameters"),)},
        _prelu_shape,
    ),
}
