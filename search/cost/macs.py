"""Multiply-accumulates of each node for one example, as polynomials in the plan.

Every operator and module of the format has an entry, also those that are not counted: one that is
new must say which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from espalier.format.ir import Node
from search.cost.polynomial import Polynomial, product
from search.cost.terms import Terms
from search.space import Affine, SearchSpace

Rule = Callable[[SearchSpace, Node], Sequence[Affine]]
"""The sizes whose product are a node's multiply-accumulates."""


def macs_of(space: SearchSpace, node: Node, terms: Terms) -> Polynomial:
    """Multiply-accumulates of convolutions, linear maps, matrix products and attention.

    Normalisations, element-wise operators, pooling, biases and the softmax are not counted.

    Raises:
        KeyError: the node's operator has no entry here.
        NetworkTooLarge: they have more terms than are left.
    """
    return product(1, MACS[space.graph.kind_of(node)](space, node), terms)


def _sizes(space: SearchSpace, name: str) -> Sequence[Affine]:
    return [extent.size for extent in space.node_shapes[name]]


def _weight(space: SearchSpace, node: Node) -> Sequence[Affine]:
    return space.stored_shapes[f"{node.target}.weight"]


def _none(_space: SearchSpace, _node: Node) -> Sequence[Affine]:
    return [Affine(0)]


def _convolution(space: SearchSpace, node: Node) -> Sequence[Affine]:
    """Every output position sees the whole kernel once.

    Dimension 1 of the weight is already the input channels of one group.
    """
    out = _sizes(space, node.name)
    return [out[0], *out[2:], *_weight(space, node)]


def _transposed(space: SearchSpace, node: Node) -> Sequence[Affine]:
    """Every input position is spread over the whole kernel once."""
    source = _sizes(space, node.inputs[0])
    return [source[0], *source[2:], *_weight(space, node)]


def _linear_module(space: SearchSpace, node: Node) -> Sequence[Affine]:
    return [*_sizes(space, node.name)[:-1], *_weight(space, node)]


def _product(space: SearchSpace, node: Node) -> Sequence[Affine]:
    return [*_sizes(space, node.name), _sizes(space, node.inputs[0])[-1]]


def _attention(space: SearchSpace, node: Node) -> Sequence[Affine]:
    """Scores `(..., queries, keys)` over the head's size, then their product with the values.

    Together `(..., queries, keys)` x (size of a key + size of a value).
    """
    out, key = _sizes(space, node.name), _sizes(space, node.inputs[1])
    return [*out[:-1], key[-2], _sum(key[-1], out[-1])]


def _sum(left: Affine, right: Affine) -> Affine:
    terms = dict(left.terms)
    for group, positions in right.terms:
        terms[group] = terms.get(group, 0) + positions
    return Affine(left.constant + right.constant, tuple(sorted(terms.items())))


_NOT_COUNTED = (
    # neither computed nor moved
    "input", "tensor", "dropout", "feature_dropout", "Dropout", "Dropout1d", "Dropout2d",
    "AlphaDropout",
    # moved
    "reshape", "permute", "expand", "contiguous", "cat", "slice", "select", "pad", "roll", "flip",
    "pixel_shuffle", "pixel_unshuffle", "interpolate", "Embedding",
    # element by element
    "relu", "relu6", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "exp", "log",
    "sqrt", "rsqrt", "abs", "neg", "erf", "reciprocal", "square", "selu", "logsigmoid", "sin",
    "cos", "log1p", "expm1", "hardtanh", "clamp", "leaky_relu", "elu", "celu", "hardshrink",
    "softshrink", "threshold", "gelu", "softplus", "add", "sub", "mul", "div", "pow", "maximum",
    "minimum", "masked_fill", "PReLU",
    # pooled, reduced and normalised
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "mean", "sum", "amax", "amin", "var", "std", "norm", "softmax",
    "log_softmax", "layer_norm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d",
    "InstanceNorm2d", "GroupNorm", "LayerNorm", "RMSNorm",
)  # fmt: skip

MACS: Mapping[str, Rule] = {
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Conv3d": _convolution,
    "ConvTranspose1d": _transposed,
    "ConvTranspose2d": _transposed,
    "Linear": _linear_module,
    "linear": _product,
    "matmul": _product,
    "attention": _attention,
    **dict.fromkeys(_NOT_COUNTED, _none),
}
"""By operator and module kind, and for the nodes `input` and `tensor`."""
