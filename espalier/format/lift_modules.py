"""Exported calls that become modules: convolutions, normalisations, linear maps, dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from espalier.format.ir import Attr, Batch
from espalier.format.lift_context import Handler, Lifting, arguments, unsupported

aten = torch.ops.aten


def _ints(value: Any, rank: int) -> tuple[int, ...]:
    """One integer for each dimension; torch lets a single one stand for all."""
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    return items * rank if len(items) == 1 else items


def _convolution(rank: int, *, transposed: bool = False) -> Handler:
    kind = f"Conv{'Transpose' if transposed else ''}{rank}d"

    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        path = state.path_of(node, weight=a["weight"], bias=a["bias"])
        weight = state.tensors[f"{path}.weight"].shape
        groups = a["groups"]
        source = a["input"]
        padding = a["padding"]
        dilation = _ints(a["dilation"], rank)
        if isinstance(padding, str):
            source, padding = _named_padding(state, node, source, padding, weight[2:], dilation)
        args: dict[str, Attr] = {
            "in_channels": weight[0] if transposed else weight[1] * groups,
            "out_channels": weight[1] * groups if transposed else weight[0],
            "groups": groups,
            "bias": a["bias"] is not None,
            "kernel_size": tuple(weight[2:]),
            "stride": _ints(a["stride"], rank),
            "padding": _ints(padding, rank),
            "dilation": dilation,
            "padding_mode": "zeros",  # other modes are exported as a padding of their own
        }
        if transposed:
            args["output_padding"] = _ints(a["output_padding"], rank)
        return state.call_module(node, kind, path, args, source)

    return lift


def _named_padding(
    state: Lifting,
    node: fx.Node,
    source: fx.Node,
    padding: str,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[fx.Node, tuple[int, ...]]:
    """`"same"` and `"valid"` as numbers; an odd total is padded at the end first, as torch does."""
    if padding == "valid":
        return source, (0,) * len(kernel)
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(total % 2 for total in totals):
        pads = tuple(side for total in reversed(totals) for side in (0, total % 2))
        name = state.emit(
            node,
            "pad",
            (state.read(source, node),),
            {"pads": pads, "mode": "constant", "value": 0.0},
        )
        source = _stand_in(state, node, name)
    return source, tuple(total // 2 for total in totals)


def _stand_in(state: Lifting, node: fx.Node, name: str) -> fx.Node:
    """An exported value of our own that stands for a node of ours."""
    made = fx.Node(node.graph, f"{node.name}_padded", "call_function", aten.pad.default, (), {})
    state.values[made] = name
    return made


def _batch_norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    path = state.path_of(
        node,
        weight=a["weight"],
        bias=a["bias"],
        running_mean=a["running_mean"],
        running_var=a["running_var"],
    )
    if (a["weight"] is None) != (a["bias"] is None):
        raise unsupported(node, "needs a weight and a bias, or neither")
    tracked = a["running_mean"] is not None
    if tracked and a["training"]:
        raise unsupported(node, "normalises by the batch's own statistics in eval mode")
    owner = state.network.get_submodule(path)
    momentum = getattr(owner, "momentum", a["momentum"])
    channels = state.tensors[f"{path}.{'running_mean' if tracked else 'weight'}"].shape[0]
    rank = len(state.shape(a["input"]))
    args: dict[str, Attr] = {
        "num_features": channels,
        "eps": float(a["eps"]),
        "affine": a["weight"] is not None,
        "momentum": None if momentum is None else float(momentum),
        "track_running_stats": tracked,
    }
    if rank not in (2, 3, 4, 5):
        raise unsupported(node, f"is carried for ranks 2 to 5, not {rank}")
    return state.call_module(node, f"BatchNorm{max(1, rank - 2)}d", path, args, a["input"])


def _normalisation_path(
    state: Lifting,
    node: fx.Node,
    kind: type[nn.Module],
    locals_: tuple[str, ...] = ("weight", "bias"),
) -> str:
    """Path of a normalisation by its tensors, or by its place where it has none."""
    given = {local: value for local, value in arguments(node).items() if local in locals_}
    if any(value is not None for value in given.values()):
        return state.path_of(node, **given)
    owner = state.owner(node, kind)
    if owner is None:
        raise unsupported(node, f"is carried as a {kind.__name__} module only")
    return owner[0]


def _instance_norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    shape = state.shape(a["input"])
    if not a["use_input_stats"] or a["running_mean"] is not None or len(shape) not in (3, 4):
        raise unsupported(node, "is carried for sequences and images, without running statistics")
    kind = nn.InstanceNorm1d if len(shape) == 3 else nn.InstanceNorm2d
    path = _normalisation_path(state, node, kind)
    args: dict[str, Attr] = {
        "num_features": _plain(node, shape[1]),
        "eps": float(a["eps"]),
        "affine": a["weight"] is not None,
    }
    return state.call_module(node, kind.__name__, path, args, a["input"])


def _group_norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    path = _normalisation_path(state, node, nn.GroupNorm)
    args: dict[str, Attr] = {
        "num_channels": _plain(node, state.shape(a["input"])[1]),
        "num_groups": a["num_groups"],
        "eps": float(a["eps"]),
        "affine": a["weight"] is not None,
    }
    return state.call_module(node, "GroupNorm", path, args, a["input"])


def _plain(node: fx.Node, dim: int | Batch) -> int:
    if isinstance(dim, Batch):
        raise unsupported(node, "mixes the batch with the channels")
    return dim


def _layer_norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    shape, eps = tuple(a["normalized_shape"]), float(a["eps"])
    name = state.stored_name(a["weight"])
    path = name.rpartition(".")[0] if name else None
    if a["weight"] is None and a["bias"] is None:
        owner = state.owner(node, nn.LayerNorm)
        path = owner[0] if owner else None
    if path and isinstance(state.network.get_submodule(path), nn.LayerNorm):
        args: Mapping[str, Attr] = {
            "normalized_shape": shape,
            "eps": eps,
            "elementwise_affine": a["weight"] is not None,
            "bias": a["bias"] is not None,
        }
        return state.call_module(node, "LayerNorm", path, args, a["input"])
    if a["weight"] is None and a["bias"] is not None:
        raise unsupported(node, "needs a weight where it has a bias")
    given = [value for value in (a["weight"], a["bias"]) if value is not None]
    inputs = tuple(state.read(value, node) for value in (a["input"], *given))
    return state.emit(node, "layer_norm", inputs, {"shape": shape, "eps": eps})


def _rms_norm(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    args: Mapping[str, Attr] = {
        "normalized_shape": tuple(a["normalized_shape"]),
        "eps": None if a["eps"] is None else float(a["eps"]),
        "elementwise_affine": a["weight"] is not None,
    }
    path = _normalisation_path(state, node, nn.RMSNorm, ("weight",))
    return state.call_module(node, "RMSNorm", path, args, a["input"])


def _linear(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    weight, bias = state.stored_name(a["weight"]), state.stored_name(a["bias"])
    path, _, local = (weight or "").rpartition(".")
    own_bias = a["bias"] is None or bias == f"{path}.bias"
    if path and local == "weight" and own_bias:
        owner = state.network.get_submodule(path)
        if isinstance(owner, nn.Linear):
            c_out, c_in = state.tensors[f"{path}.weight"].shape
            args: Mapping[str, Attr] = {
                "in_features": c_in,
                "out_features": c_out,
                "bias": a["bias"] is not None,
            }
            return state.call_module(node, "Linear", path, args, a["input"])
    given = [value for value in (a["weight"], a["bias"]) if value is not None]
    inputs = tuple(state.read(value, node) for value in (a["input"], *given))
    return state.emit(node, "linear", inputs)


def _embedding(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    path = state.path_of(node, weight=a["weight"])
    count, width = state.tensors[f"{path}.weight"].shape
    padding = a["padding_idx"]
    args: Mapping[str, Attr] = {
        "num_embeddings": count,
        "embedding_dim": width,
        "padding_idx": None if padding is None or padding < 0 else padding,
    }
    return state.call_module(node, "Embedding", path, args, a["indices"])


def _dropout(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    if a["train"]:
        raise unsupported(node, "drops values in eval mode too: pass training=self.training")
    p = {"p": float(a["p"])}
    owner = state.owner(node, nn.Dropout)
    if owner is not None:
        return state.call_module(node, "Dropout", owner[0], p, a["input"])
    return state.emit(node, "dropout", (state.read(a["input"], node),), p)


def _feature_dropout(state: Lifting, node: fx.Node) -> str:
    """Whole channels: of sequences and images as modules, otherwise as an operator."""
    a = arguments(node)
    if a["train"]:
        raise unsupported(node, "drops values in eval mode too: pass training=self.training")
    p, rank = {"p": float(a["p"])}, len(state.shape(a["input"]))
    kind = {3: nn.Dropout1d, 4: nn.Dropout2d}.get(rank)
    owner = None if kind is None else state.owner(node, kind)
    if kind is not None and owner is not None:
        return state.call_module(node, kind.__name__, owner[0], p, a["input"])
    return state.emit(node, "feature_dropout", (state.read(a["input"], node),), p)


def _alpha_dropout(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    owner = state.owner(node, nn.AlphaDropout)
    if a["train"] or owner is None:
        raise unsupported(node, "is carried as an AlphaDropout module only")
    return state.call_module(node, "AlphaDropout", owner[0], {"p": float(a["p"])}, a["input"])


def _prelu(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    path = state.path_of(node, weight=a["weight"])
    args = {"num_parameters": state.tensors[f"{path}.weight"].shape[0]}
    return state.call_module(node, "PReLU", path, args, a["self"])


MODULE_CALLS: Mapping[Any, Handler] = {
    aten.conv1d.default: _convolution(1),
    aten.conv1d.padding: _convolution(1),
    aten.conv2d.default: _convolution(2),
    aten.conv2d.padding: _convolution(2),
    aten.conv3d.default: _convolution(3),
    aten.conv3d.padding: _convolution(3),
    aten.conv_transpose1d.default: _convolution(1, transposed=True),
    aten.conv_transpose2d.input: _convolution(2, transposed=True),
    aten.batch_norm.default: _batch_norm,
    aten.instance_norm.default: _instance_norm,
    aten.group_norm.default: _group_norm,
    aten.layer_norm.default: _layer_norm,
    aten.linear.default: _linear,
    aten.embedding.default: _embedding,
    aten.rms_norm.default: _rms_norm,
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _feature_dropout,
    aten.alpha_dropout.default: _alpha_dropout,
    aten.prelu.default: _prelu,
}
