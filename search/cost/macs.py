"""Multiply-accumulates of each node for one example, as polynomials in the plan."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.format.ir import Node
from search.cost.polynomial import Polynomial, product
from search.space import Affine, SearchSpace


def _sizes(space: SearchSpace, name: str) -> Sequence[Affine]:
    return [extent.size for extent in space.node_shapes[name]]


def macs_of(space: SearchSpace, node: Node) -> Polynomial:
    """Multiply-accumulates of convolutions, linear maps, matrix products and attention.

    Normalisations, element-wise operators, pooling, biases and the softmax are not counted.
    """
    kind = space.graph.kind_of(node)
    out = _sizes(space, node.name)
    match kind:
        case "Conv1d" | "Conv2d" | "Conv3d":
            # Every output position sees the whole kernel once; dim 1 of the weight is already
            # the input channels of one group.
            return product(1, [out[0], *out[2:], *space.stored_shapes[f"{node.target}.weight"]])
        case "ConvTranspose1d" | "ConvTranspose2d":
            source = _sizes(space, node.inputs[0])
            weight = space.stored_shapes[f"{node.target}.weight"]
            return product(1, [source[0], *source[2:], *weight])
        case "Linear":
            return product(1, [*out[:-1], *space.stored_shapes[f"{node.target}.weight"]])
        case "linear" | "matmul":
            return product(1, [*out, _sizes(space, node.inputs[0])[-1]])
        case "attention":
            # scores: (..., queries, keys) over the head's size, then their product with the
            # values: together (..., queries, keys) x (size of a key + size of a value).
            key = _sizes(space, node.inputs[1])
            return product(1, [*out[:-1], key[-2], _sum(key[-1], out[-1])])
    return {}


def _sum(left: Affine, right: Affine) -> Affine:
    terms = dict(left.terms)
    for group, positions in right.terms:
        terms[group] = terms.get(group, 0) + positions
    return Affine(left.constant + right.constant, tuple(sorted(terms.items())))
