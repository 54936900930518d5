"""Coupling rules of the operators without weights: elementwise, shape, cutting, joining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from espalier.format.ir import Batch, Node, TensorType, size
from espalier.format.operators import axis, integer, integers
from search.graph.context import Context, Rule, Span
from search.graph.labels import (
    Block,
    Labelled,
    compact,
    fix,
    join,
    lifted,
    line,
    permute,
    pin,
    relabelled,
    reshape,
    spread,
    take,
    without_dims,
)


def same(_context: Context, _node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Every position of the result depends on the same position of the input only."""
    return inputs[0]


def elementwise(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    if len(inputs) == 1:
        return inputs[0]
    return join(context.atoms, inputs[0], inputs[1], node.name)


def along_dim(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Softmax: all positions along a dimension share one sum."""
    value = inputs[0]
    dim = axis(integer(node.attrs, "dim"), len(value.shape))
    return pin(context.atoms, value, [dim], f"{node.name} normalises across them")


def spatial(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Pooling and resizing: windows over all dimensions but batch and channels."""
    value = inputs[0]
    reason = f"{node.name} slides over them"
    return pin(context.atoms, value, range(2, len(value.shape)), reason)


def _sees_only_what_is_left(node: Node) -> bool:
    """Whether a reduction may lose some of what it reduces over.

    Zeros add nothing to a sum or a norm, so that these do not change. Mean and variance become
    those of what is left, as inside of a layer normalisation, which is often spelled out so; an
    unbiased variance of a single one would be undefined.
    """
    if node.op in ("var", "std"):
        return node.attrs["correction"] == 0
    order = node.attrs.get("order", 1.0)
    return node.op in ("sum", "mean", "norm") and isinstance(order, float) and order > 0


def reduce(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value = inputs[0]
    gone = {axis(dim, len(value.shape)) for dim in integers(node.attrs, "dims")}
    whole: tuple[Block, ...] = ()
    if _sees_only_what_is_left(node):
        whole = value.only(gone)
        value = replace(value, blocks=tuple(b for b in value.blocks if b not in whole))
    value = pin(context.atoms, value, sorted(gone), f"{node.name} reduces over them")
    return value if node.attrs["keepdim"] else without_dims(value, gone)


def _examples(shape: Sequence[int | Batch]) -> set[int]:
    """Distances at which the examples of a batch may lie in memory."""
    for at, dim in enumerate(shape):
        if isinstance(dim, Batch):
            behind = int(np.prod([size(d) for d in shape[at + 1 :]], dtype=object))
            return {behind, behind * dim.factor}
    return {0}


def _mixes(source: TensorType, target: TensorType) -> bool:
    return _examples(source.shape).isdisjoint(_examples(target.shape))


def reshape_rule(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value, target = inputs[0], context.shape(node.name)
    if _mixes(context.types[node.inputs[0]], context.types[node.name]):
        value = fix(context.atoms, value, f"{node.name} mixes the examples of a batch")
    return reshape(context.atoms, value, target, node.name)


def permute_rule(_context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    return permute(inputs[0], integers(node.attrs, "dims"))


def expand(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    return lifted(inputs[0], len(context.shape(node.name)))


def flip(_context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """The other way round, and so the labels."""
    value = inputs[0]
    turned = {axis(dim, len(value.shape)) for dim in integers(node.attrs, "dims")}
    blocks = tuple(
        Block(b.dims, np.flip(b.atoms, tuple(i for i, d in enumerate(b.dims) if d in turned)))
        if turned.intersection(b.dims)
        else b
        for b in value.blocks
    )
    return replace(value, blocks=blocks)


def roll(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value = inputs[0]
    rank = len(value.shape)
    reason = f"{node.name} shifts them"
    moved = [axis(dim, rank) for dim in integers(node.attrs, "dims")] or range(rank)
    return pin(context.atoms, value, moved, reason)


# --- joining and cutting ------------------------------------------------------------------------


def _others(context: Context, inputs: Sequence[Labelled], dim: int, where: str) -> list[Labelled]:
    """The inputs of a concatenation, reduced to their labels on and with dimension `dim`; blocks
    of the other dimensions are tied and come first."""
    atoms = context.atoms
    open_ = {d for value in inputs for b in value.blocks if dim in b.dims for d in b.dims}
    open_.add(dim)
    while True:
        wider = {d for v in inputs for b in v.blocks if open_.intersection(b.dims) for d in b.dims}
        if wider <= open_:
            break
        open_ |= wider
    closed = [d for d in range(len(inputs[0].shape)) if d not in open_]
    tied = replace(inputs[0], blocks=inputs[0].only(closed))
    tied = replace(tied, shape=tuple(0 if d == dim else s for d, s in enumerate(tied.shape)))
    for value in inputs[1:]:
        shape = tuple(0 if d == dim else s for d, s in enumerate(value.shape))
        tied = join(atoms, tied, Labelled(shape, value.only(closed), value.constant), where)
    return [tied, *(replace(value, blocks=value.only(open_)) for value in inputs)]


def cat(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    atoms = context.atoms
    dim = axis(integer(node.attrs, "dim"), len(inputs[0].shape))
    tied, *parts = _others(context, inputs, dim, node.name)
    dims = sorted({d for part in parts for b in part.blocks for d in b.dims} | {dim})
    fixed = "never cut"
    if any(part.given and not part.blocks for part in parts):
        fixed = "tied to the network's input"
    reason = f"{node.name} concatenates them with channels that are {fixed}"
    if not any(part.blocks for part in parts):
        return tied
    arrays = []
    for part in parts:
        shape = [part.shape[dim] for dim in dims]
        if len(part.blocks) == 1:
            atoms.spend(int(np.prod(shape, dtype=object)))
            arrays.append(spread(part.blocks[0], dims, shape))
            continue
        fix(atoms, part, f"{node.name} concatenates them along two dimensions")
        stays = atoms.fresh(1)
        atoms.fix(stays, reason)
        atoms.spend(int(np.prod(shape, dtype=object)))
        arrays.append(np.broadcast_to(stays.reshape((1,) * len(shape)), tuple(shape)))
    joined = np.concatenate(arrays, axis=dims.index(dim))
    return replace(tied, blocks=(*tied.blocks, compact(dims, joined)))


def _cut(block: Block, dim: int, start: int, stop: int) -> Block:
    index = tuple(slice(start, stop) if d == dim else slice(None) for d in block.dims)
    part = block.atoms[index]
    return Block(block.dims, part) if stop - start > 1 else compact(block.dims, part)


def _put(value: Labelled, old: Block, new: Block | None) -> Labelled:
    blocks = [block for block in value.blocks if block is not old]
    return replace(value, blocks=tuple(blocks if new is None else [*blocks, new]))


def slice_rule(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value = inputs[0]
    dim = axis(integer(node.attrs, "dim"), len(value.shape))
    start, stop = integer(node.attrs, "start"), integer(node.attrs, "stop")
    block = value.block_at(dim)
    if block is None:
        return value
    if integer(node.attrs, "step") != 1:
        return pin(context.atoms, value, [dim], f"{node.name} takes every so many of them")
    if stop - start == 1:  # a dimension of size one carries no label
        return _single(context, node, value, block, dim, start)
    context.count(node.name, 0, Span(block, dim, 0, start))
    return _put(value, block, _cut(block, dim, start, stop))


def _single(
    context: Context, node: Node, value: Labelled, block: Block, dim: int, index: int
) -> Labelled:
    """One position along `dim`, which has to stay."""
    if len(block.dims) > 1:
        where = block.dims.index(dim)
        context.atoms.unite_along(block.atoms, where)
        left = tuple(d for d in block.dims if d != dim)
        return _put(value, block, Block(left, take(block.atoms, where, index)))
    context.atoms.fix(block.atoms[index : index + 1], f"{node.name} picks single ones of them")
    context.count(node.name, 0, Span(block, dim, 0, index))
    return _put(value, block, None)


def select(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value = inputs[0]
    dim = axis(integer(node.attrs, "dim"), len(value.shape))
    block = value.block_at(dim)
    if block is not None:
        value = _single(context, node, value, block, dim, integer(node.attrs, "index"))
    return without_dims(value, [dim])


def pad(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Zeros around: the new channels are cut with whatever they are added to."""
    value, atoms = inputs[0], context.atoms
    pads, rank = integers(node.attrs, "pads"), len(inputs[0].shape)
    for index in range(len(pads) // 2):
        before, after = pads[2 * index], pads[2 * index + 1]
        dim = rank - 1 - index
        if not (before or after) or value.block_at(dim) is None:
            continue
        value, array = line(atoms, value, dim, f"{node.name} pads what they are split into")
        if array is None:
            continue
        zeros = node.attrs["mode"] == "constant" and node.attrs["value"] == 0
        if not zeros:
            value = pin(atoms, value, [dim], f"{node.name} fills channels that are not zero")
            continue
        length = len(array)
        whole = np.concatenate([atoms.fresh(max(before, 0)), array, atoms.fresh(max(after, 0))])
        bare, padded = Block((dim,), array), Block((dim,), whole)
        left, right = max(-before, 0), len(whole) - max(-after, 0)
        if right - left == 1:
            value = pin(atoms, value, [dim], f"{node.name} leaves one of them")
            continue
        for slot, width in ((2 * index, before), (2 * index + 1, after)):
            first = slot == 2 * index
            if width > 0:
                span = (0, width) if first else (len(whole) - width, len(whole))
                context.count(node.name, slot, Span(padded, dim, *span))
            elif width < 0:
                span = (0, -width) if first else (length + width, length)
                context.count(node.name, slot, Span(bare, dim, *span, sign=-1))
        value = relabelled(value, dim, whole[left:right])
    return value


def pixel_shuffle(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value, atoms = inputs[0], context.atoms
    square = integer(node.attrs, "factor") ** 2
    value = pin(atoms, value, [2, 3], f"{node.name} shuffles them")
    value, channels = line(atoms, value, 1, f"{node.name} shuffles what they are split into")
    if channels is None:
        return value
    table = channels.reshape(-1, square)
    if len(table) == 1:
        return pin(atoms, value, [1], f"{node.name} turns them into one channel")
    atoms.unite_along(table, 1)
    return relabelled(value, 1, table[:, 0])


def pixel_unshuffle(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    value, atoms = inputs[0], context.atoms
    square = integer(node.attrs, "factor") ** 2
    value = pin(atoms, value, [2, 3], f"{node.name} shuffles them")
    value, channels = line(atoms, value, 1, f"{node.name} shuffles what they are split into")
    if channels is None:
        return value
    atoms.spend(len(channels) * square)
    return relabelled(value, 1, np.repeat(channels, square))


_UNARY = (
    "relu relu6 silu mish sigmoid tanh hardswish hardsigmoid exp log sqrt rsqrt abs neg erf "
    "reciprocal square contiguous hardtanh clamp leaky_relu elu gelu softplus dropout "
    "feature_dropout selu celu logsigmoid sin cos log1p expm1 hardshrink softshrink threshold"
)

TENSOR_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), same),
    **dict.fromkeys(["add", "sub", "mul", "div", "pow", "maximum", "minimum"], elementwise),
    "masked_fill": elementwise,
    **dict.fromkeys(("softmax", "log_softmax"), along_dim),
    **dict.fromkeys(
        [
            f"{kind}_pool{rank}d"
            for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
            for rank in (1, 2, 3)
            if (kind, rank) != ("adaptive_max", 3)
        ],
        spatial,
    ),
    "interpolate": spatial,
    **dict.fromkeys(["mean", "sum", "amax", "amin", "var", "std", "norm"], reduce),
    "reshape": reshape_rule,
    "permute": permute_rule,
    "expand": expand,
    "cat": cat,
    "slice": slice_rule,
    "select": select,
    "pad": pad,
    "roll": roll,
    "flip": flip,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
}
