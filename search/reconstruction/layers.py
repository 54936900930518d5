"""The layers whose weights can be solved for: linear maps of unfolded inputs.

A convolution is a linear map of its patches, so one form does for all of them: with `g` groups,
rows `x` of `(c_in / g) * kernel` features give `(c_out / g)` outputs, `y = W x + b`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from espalier.format.ir import Graph, Module, Node
from espalier.format.operators import infer

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@dataclass(frozen=True, slots=True)
class Residual:
    """What is added to a layer's output further on.

    Attributes:
        other: the node whose tensor is added.
        at: the node that adds.
    """

    other: str
    at: str


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear map, called once in the network.

    Attributes:
        node: that calls it.
        source: the node that it reads.
        weight: its stored tensor, `(c_out, c_in / g, *kernel)`.
        bias: its stored tensor, if it has one.
        norm: path of the batch-norm with running statistics that alone reads it, if any: it
            can carry the constant that a layer without bias cannot.
        residual: what is added to the output, behind the norm if there is one.
        range: the least and the greatest value that the activation lets through which alone reads
            the output, behind norm and sum; `None` if another operator reads it.
        groups: of a grouped convolution, else 1.
        kernel, stride, padding, dilation: of a convolution, one a spatial dimension; empty for a
            linear map, whose features are the last dimension. Padding is with zeros.
    """

    node: str
    source: str
    weight: str
    bias: str | None
    norm: str | None
    residual: Residual | None
    range: Range | None = None
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def channel_dim(self) -> int:
        """The dimension of inputs and outputs that the channels lie on."""
        return 1 if self.kernel else -1

    @property
    def carries_constant(self) -> bool:
        """Whether a constant can be added to the output."""
        return self.bias is not None or self.norm is not None

    def inputs(self, x: Tensor) -> Tensor:
        """`(groups, rows, features)`: what each output is a linear function of.

        The features of a convolution are its kernel's positions, and channels within each.

        Args:
            x: `(n, c_in, *spatial)`, or `(..., features)` for a linear map.
        """
        if not self.kernel:
            return x.reshape(1, -1, x.shape[-1])
        if any(self.padding):
            pads = [amount for size in reversed(self.padding) for amount in (size, size)]
            x = functional.pad(x, pads)
        rank, n = len(self.kernel), len(x)
        # Channels last: then a patch is copied in whole runs of channels.
        x = x.movedim(1, -1).contiguous()
        x = x.reshape(*x.shape[:-1], self.groups, -1)
        for dim, (size, step, gap) in enumerate(
            zip(self.kernel, self.stride, self.dilation, strict=True), start=1
        ):
            x = x.unfold(dim, (size - 1) * gap + 1, step)[..., ::gap]
        # (n, *positions, groups, channels, *kernel) -> (groups, n, *positions, *kernel, channels)
        x = x.permute(rank + 1, *range(rank + 1), *range(rank + 3, 2 * rank + 3), rank + 2)
        return x.reshape(self.groups, n * math.prod(x.shape[2 : rank + 2]), -1)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer's output with other weights, `weight` of the same shape and `bias` `(c_out,)`.

        Args:
            x: as for `inputs`.
        """
        if not self.kernel:
            return functional.linear(x, weight, bias)
        convolve: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[
            len(self.kernel) - 1
        ]
        result: Tensor = convolve(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return result

    def matrix(self, weight: Tensor) -> Tensor:
        """`(groups, c_out / groups, features)` of a weight `(c_out, c_in / groups, *kernel)`."""
        weight = weight.movedim(1, -1) if self.kernel else weight
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight_of(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight, of the shape of another, that has this `matrix`."""
        if not self.kernel:
            return matrix.reshape(like.shape)
        # `clone`: with a kernel of one, strides would claim that channels come last.
        weight = matrix.reshape(like.movedim(1, -1).shape).movedim(-1, 1)
        return weight.clone(memory_format=torch.contiguous_format)


def layers(graph: Graph) -> Iterator[Layer]:
    """The convolutions and linear maps of a network, in its order.

    Left out: transposed convolutions, layers that are called more than once, and weights that are
    computed or serve a second purpose.
    """
    readers: dict[str, list[Node]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    for name in graph.outputs:  # an output is read outside
        readers[name].append(Node(f"output of {name}", "output"))
    by_name = {node.name: node for node in graph.nodes}
    uses = _uses(graph, readers)

    for node in graph.nodes:
        names = _tensors(graph, node, by_name)
        if names is None or uses[names.weight] > 1 or (names.bias and uses[names.bias] > 1):
            continue
        norm = _norm(graph, node, readers[node.name], uses)
        behind = node.name if norm is None else readers[node.name][0].name
        residual = _residual(behind, readers)
        yield Layer(
            node=node.name,
            source=node.inputs[0],
            weight=names.weight,
            bias=names.bias,
            norm=None if norm is None else norm.target,
            residual=residual,
            range=_range(readers[behind if residual is None else residual.at]),
            **_geometry(graph.module_of(node) if node.op == "module" else None),
        )


def _uses(graph: Graph, readers: Mapping[str, list[Node]]) -> Counter[str]:
    """By stored tensor, how often it is read: by calls of its module, and directly."""
    held: dict[str, list[str]] = {}
    for name in graph.stored:
        held.setdefault(name.rpartition(".")[0], []).append(name)
    uses: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "module" and node.target is not None:
            uses.update(held.get(node.target, ()))
        elif node.op == "tensor" and node.target is not None:
            uses[node.target] += len(readers[node.name])
    return uses


class _Names(NamedTuple):
    weight: str
    bias: str | None


def _tensors(graph: Graph, node: Node, by_name: Mapping[str, Node]) -> _Names | None:
    if node.op == "linear":  # weights that are not a Linear module's own
        held = [by_name[name] for name in node.inputs[1:]]
        if any(item.op != "tensor" for item in held):
            return None
        names = [item.target or "" for item in held]
        return _Names(names[0], names[1] if len(names) > 1 else None)
    if node.op != "module" or node.target is None:
        return None
    if graph.module_of(node).kind not in ("Linear", *_CONVOLUTIONS):
        return None
    bias = f"{node.target}.bias"
    return _Names(f"{node.target}.weight", bias if bias in graph.stored else None)


def _norm(graph: Graph, layer: Node, read_by: list[Node], uses: Counter[str]) -> Node | None:
    if len(read_by) != 1 or graph.kind_of(read_by[0]) not in _NORMS:
        return None
    (node,) = read_by
    if uses[f"{node.target}.running_mean"] != 1:  # not tracked, or called more than once
        return None
    if graph.kind_of(layer) not in _CONVOLUTIONS and len(infer(graph)[layer.name].shape) != 2:
        return None  # of three dimensions it norms the second, not the features
    return node


def _residual(name: str, readers: Mapping[str, list[Node]]) -> Residual | None:
    """The addition that alone reads a node's tensor, dropout in between or not."""
    while len(readers[name]) == 1:
        (node,) = readers[name]
        if node.op == "add" and len(node.inputs) == 2:
            others = [other for other in node.inputs if other != name]
            return Residual(others[0], node.name) if len(others) == 1 else None
        if node.op not in ("dropout", "feature_dropout"):
            return None
        name = node.name
    return None


def _range(read_by: list[Node]) -> Range | None:
    """Between which values the activation that alone reads a tensor is the identity, if it is."""
    if len(read_by) != 1:
        return None
    (node,) = read_by
    match node.op:
        case "relu":
            return 0.0, math.inf
        case "relu6":
            return 0.0, 6.0
        case "hardtanh" | "clamp":
            low, high = node.attrs["min"], node.attrs["max"]
            return (
                -math.inf if low is None else float(low),  # type: ignore[arg-type]
                math.inf if high is None else float(high),  # type: ignore[arg-type]
            )
    return None


def _geometry(module: Module | None) -> dict[str, Any]:
    if module is None or module.kind not in _CONVOLUTIONS:
        return {}
    names = {"kernel": "kernel_size", **{name: name for name in ("stride", "padding", "dilation")}}
    return {name: module.args[arg] for name, arg in names.items()} | {
        "groups": module.args["groups"]
    }
