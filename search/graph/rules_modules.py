"""Coupling rules of the modules: what their stored tensors share with their input and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from espalier.format.ir import Module, Node
from espalier.format.operators import MODULES, integer, integers
from search.graph.atoms import IntArray
from search.graph.context import Context, Rule
from search.graph.labels import Block, Labelled, line, pin, relabelled
from search.graph.rules_products import contract, normalised
from search.graph.rules_tensor import same


def _called(context: Context, node: Node) -> tuple[Module, str]:
    return context.graph.module_of(node), node.target or ""


def _tie_bias(context: Context, path: str, module: Module, outputs: IntArray | None) -> None:
    if module.args["bias"]:
        bias = context.of(f"{path}.bias", 0)
        context.produces(bias)
        context.meet(bias, outputs, f"{path} has one of them for each output")


def convolution(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """One group: inputs are the weight's columns, outputs its rows.

    Several groups are either kept in number, each losing the same offsets, or removed whole,
    whichever leaves the finer choice; a depthwise convolution always loses whole groups.
    """
    module, path = _called(context, node)
    atoms, weight = context.atoms, f"{path}.weight"
    transposed = module.kind.startswith("ConvTranspose")
    value = pin(atoms, inputs[0], range(2, len(inputs[0].shape)), f"{node.name} slides over them")
    value, source = line(atoms, value, 1, f"{node.name} reads what they are split into")
    groups = integer(module.args, "groups")
    if groups == 1:
        rows, columns = (1, 0) if transposed else (0, 1)
        outputs, wanted = context.of(weight, rows), context.of(weight, columns)
        context.meet(wanted, source, f"{path} reads them from values that are never cut")
        context.consumes(wanted)
    else:
        outputs = _grouped(
            context, path, module, source, transposed=transposed, given=inputs[0].given
        )
    context.produces(None if groups > 1 and transposed else outputs)
    context.channel_dims[node.name] = 1
    _tie_bias(context, path, module, outputs)
    return relabelled(value, 1, outputs)


def _grouped(
    context: Context,
    path: str,
    module: Module,
    source: IntArray | None,
    *,
    transposed: bool,
    given: bool,
) -> IntArray | None:
    """Atoms of a grouped convolution's output channels."""
    atoms, weight = context.atoms, f"{path}.weight"
    c_in, c_out, groups = (
        integer(module.args, name) for name in ("in_channels", "out_channels", "groups")
    )
    inner, outer = c_in // groups, c_out // groups
    reason = f"{path} reads them from values that are never cut"
    if given:
        reason = f"{path} reads them from values that are tied to the network's input"
    stored = context.of(weight, 0)  # inputs if transposed, else outputs
    narrow = context.of(weight, 1)  # of one group: outputs if transposed, else inputs
    whole = inner == 1 or groups >= max(inner, outer)
    if whole:
        context.grouped.add(path)
        if stored is not None:
            table = stored.reshape(groups, -1)
            atoms.unite_along(table, 1)
            first = table[:, 0]
        else:
            first = None
        if narrow is not None:
            atoms.fix(narrow, f"{path} removes its groups whole")
        if source is not None:
            atoms.unite_along(source.reshape(groups, inner), 1)
            source = source.reshape(groups, inner)[:, 0]
        context.meet(first, source, reason)
        if not transposed:
            return stored
        context.produces(stored)
        return None if first is None else np.repeat(first, outer)
    if source is not None:
        atoms.unite_along(source.reshape(groups, inner), 0)
    if not transposed:
        one = None if source is None else source.reshape(groups, inner)[0]
        context.meet(narrow, one if inner > 1 else None, reason)
        context.consumes(narrow)
        if stored is not None:
            atoms.unite_along(stored.reshape(groups, outer), 0)
        return stored
    context.meet(stored, source, reason)
    context.consumes(stored)
    if stored is not None:
        atoms.unite_along(stored.reshape(groups, inner), 0)
    context.produces(narrow)
    return None if narrow is None else np.tile(narrow, groups)


def linear(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    module, path = _called(context, node)
    value, last = inputs[0], len(inputs[0].shape) - 1
    outputs, wanted = context.of(f"{path}.weight", 0), context.of(f"{path}.weight", 1)
    shape = context.graph.stored[f"{path}.weight"].shape
    blocks = () if wanted is None else (Block((1,), wanted),)
    value, _ = contract(context, value, last, Labelled(tuple(shape), blocks, True), 1, node.name)
    context.consumes(wanted)
    context.produces(outputs)
    context.channel_dims[node.name] = last
    _tie_bias(context, path, module, outputs)
    return relabelled(value, last, outputs)


def embedding(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    _, path = _called(context, node)
    value = pin(context.atoms, inputs[0], range(len(inputs[0].shape)), f"{path} looks them up")
    rows = context.stored.get((f"{path}.weight", 0))
    if rows is not None:  # shared with a tensor that is used directly
        context.atoms.fix(rows, f"{path} looks them up by number")
    outputs = context.of(f"{path}.weight", 1)
    context.produces(outputs)
    context.channel_dims[node.name] = len(value.shape)
    return relabelled(value, len(value.shape), outputs)


# --- normalisation ------------------------------------------------------------------------------


def _channels(context: Context, node: Node, value: Labelled, argument: str) -> Labelled:
    """Tie the module's per-channel tensors to dimension 1."""
    module, path = _called(context, node)
    reason = f"{path} follows values that are never cut"
    value, channels = line(context.atoms, value, 1, f"{path} normalises what they are split into")
    tensors = [
        f"{path}.{name}"
        for name, shape in MODULES[module.kind].tensors(module.args).items()
        if shape
    ]
    if tensors:
        for tensor in tensors:
            context.meet(context.of(tensor, 0), channels, reason)
    elif value.shape[1] > 1:
        context.meet(context.axis(f"{path}:{argument}", value.shape[1]), channels, reason)
    return value


def batch_norm(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    return _channels(context, node, inputs[0], "num_features")


def instance_norm(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    reason = f"{node.name} normalises across them"
    value = pin(context.atoms, inputs[0], range(2, len(inputs[0].shape)), reason)
    return _channels(context, node, value, "num_features")


def group_norm(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Groups keep their number and lose the same offsets, or go whole, whichever is finer."""
    module, path = _called(context, node)
    reason = f"{node.name} normalises across them"
    value = pin(context.atoms, inputs[0], range(2, len(inputs[0].shape)), reason)
    value = _channels(context, node, value, "num_channels")
    block = value.block_at(1)
    groups = integer(module.args, "num_groups")
    if groups > 1:
        whole = groups * groups >= value.shape[1]
        if whole:
            context.grouped.add(path)
        if block is not None:
            context.atoms.unite_along(block.atoms.reshape(groups, -1), 1 if whole else 0)
    return value


def layer_norm(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    module, path = _called(context, node)
    value, shape = inputs[0], integers(module.args, "normalized_shape")
    tensors = MODULES[module.kind].tensors(module.args)
    affine = [context.whole(f"{path}.{name}") for name in tensors]
    if not tensors:
        blocks = [
            Block((dim,), context.axis(f"{path}:normalized_shape.{dim}", length))
            for dim, length in enumerate(shape)
            if length > 1
        ]
        affine = [Labelled(shape, tuple(blocks))]
    return normalised(context, value, len(shape), affine, node.name)


def prelu(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    module, path = _called(context, node)
    if integer(module.args, "num_parameters") == 1:
        return inputs[0]
    value, channels = line(context.atoms, inputs[0], 1, f"{path} follows what they are split into")
    reason = f"{path} follows values that are never cut"
    context.meet(context.of(f"{path}.weight", 0), channels, reason)
    return value


MODULE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d"), convolution
    ),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), batch_norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d"), instance_norm),
    "GroupNorm": group_norm,
    **dict.fromkeys(("LayerNorm", "RMSNorm"), layer_norm),
    "Linear": linear,
    "Embedding": embedding,
    **dict.fromkeys(("Dropout", "AlphaDropout", "Dropout1d", "Dropout2d"), same),
    "PReLU": prelu,
}
