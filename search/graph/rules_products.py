"""Coupling rules of matrix products: what is summed over is tied between the two factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from espalier.format.ir import Node
from espalier.format.operators import integers
from search.graph.context import Context, Rule
from search.graph.labels import Block, Labelled, join, lifted, line, permute, pin


def contract(
    context: Context, left: Labelled, i: int, right: Labelled, j: int, where: str
) -> tuple[Labelled, Labelled]:
    """Tie the dimensions that are summed over; both tensors come back with size one there.

    Heads: where the dimension is split off others, only these others may be cut.
    """
    reason = f"{where} multiplies them with values that are never cut"
    left, ours = line(context.atoms, left, i, reason)
    right, theirs = line(context.atoms, right, j, reason)
    context.meet(ours, theirs, reason)
    return _summed(left, i), _summed(right, j)


def _summed(value: Labelled, dim: int) -> Labelled:
    shape = tuple(1 if d == dim else s for d, s in enumerate(value.shape))
    return replace(value, shape=shape, blocks=tuple(b for b in value.blocks if dim not in b.dims))


def _product(context: Context, left: Labelled, right: Labelled, where: str) -> Labelled:
    """`left` `(..., m, k)` times `right` `(..., k, n)`."""
    rank, width = len(left.shape), len(right.shape)
    for factor, rows, columns in ((left, rank - 2, rank - 1), (right, width - 1, width - 2)):
        produced, consumed = factor.block_at(rows), factor.block_at(columns)
        if factor.constant:
            context.produces(None if produced is None else produced.atoms)
            context.consumes(None if consumed is None else consumed.atoms)
    left, right = contract(context, left, len(left.shape) - 1, right, len(right.shape) - 2, where)
    return join(context.atoms, left, right, where)


def matmul(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    _note_made(context, node, inputs[0], inputs[1])
    return _product(context, inputs[0], inputs[1], node.name)


def _note_made(context: Context, node: Node, left: Labelled, right: Labelled) -> None:
    """A stored matrix makes the columns of a product with it, or the rows if it is the left."""
    rank = len(context.shape(node.name))
    if right.constant:
        context.channel_dims[node.name] = rank - 1
    elif left.constant:
        context.channel_dims[node.name] = rank - 2


def _transposed(value: Labelled) -> Labelled:
    rank = len(value.shape)
    return permute(value, [*range(rank - 2), rank - 1, rank - 2])


def attention(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    """Scores, softmax over the keys, weighted sum of the values."""
    where = node.name
    query, key, value = inputs[:3]
    _note_made(context, node, query, value)
    scores = _product(context, query, _transposed(key), where)
    if len(inputs) == 4:
        scores = join(context.atoms, scores, inputs[3], where)
    last = len(scores.shape) - 1
    scores = pin(context.atoms, scores, [last], f"{where} normalises across them")
    return _product(context, scores, value, where)


def linear(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    source, weight = inputs[0], inputs[1]
    rows, last = weight.block_at(0), len(source.shape) - 1
    if rows is not None:
        context.produces(rows.atoms)
    context.channel_dims[node.name] = last
    weight, produced = line(context.atoms, weight, 0, f"{node.name} uses them as one matrix")
    columns = weight.block_at(1)
    if columns is not None:
        context.consumes(columns.atoms)
    source, _ = contract(context, source, last, weight, 1, node.name)
    blocks = source.blocks if produced is None else (*source.blocks, Block((last,), produced))
    result = Labelled(context.shape(node.name), blocks)
    if len(inputs) == 3:
        bias = inputs[2].block_at(len(inputs[2].shape) - 1)
        context.produces(None if bias is None else bias.atoms)
        result = join(context.atoms, result, inputs[2], node.name)
    return result


def layer_norm(context: Context, node: Node, inputs: Sequence[Labelled]) -> Labelled:
    tail = len(integers(node.attrs, "shape"))
    return normalised(context, inputs[0], tail, inputs[1:], node.name)


def normalised(
    context: Context, value: Labelled, tail: int, affine: Sequence[Labelled], where: str
) -> Labelled:
    """Normalisation over the last `tail` dimensions, scaled by tensors of that shape."""
    inner = set(range(len(value.shape) - tail, len(value.shape)))
    for block in value.blocks:
        if inner.intersection(block.dims) and not inner.issuperset(block.dims):
            crossing = sorted(inner.intersection(block.dims))
            value = pin(context.atoms, value, crossing, f"{where} normalises across them")
    for tensor in affine:
        value = join(context.atoms, value, lifted(tensor, len(value.shape)), where)
    return value


PRODUCT_RULES: Mapping[str, Rule] = {
    "matmul": matmul,
    "linear": linear,
    "attention": attention,
    "layer_norm": layer_norm,
}
