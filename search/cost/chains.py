"""Chains of layers around the widths of a channel group: what is timed to learn its staircase.

A layer's time depends on the layout that the one before leaves and the next one wants, so single
layers mislead: a channel group is timed where it is, between the layer that makes it and one that
reads it, with the depthwise convolutions between them:

    reads n channels -> [ producer ] -> w -> [ depthwise ] -> w -> [ reader ] -> m channels

Layers whose tensors pass through something that changes the positions or the channels (pooling
before a classifier, a concatenation) stand alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from espalier.format.ir import Node
from search.space import Affine, Plan, SearchSpace

Ints = tuple[int, ...]

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
_LARGEST = 2**24
"""Elements of one layer's weights; larger ones are not timed (a classifier of VGG has 2**26)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights at given widths: all that its time follows from.

    Attributes:
        inputs, outputs: channels that it reads and makes.
        extent: positions of what it reads: the spatial size, or the rows of a linear layer.
        kernel, stride, padding, dilation: of a convolution; empty for a linear layer.
    """

    inputs: int
    outputs: int
    extent: Ints
    kernel: Ints = ()
    stride: Ints = ()
    padding: Ints = ()
    dilation: Ints = ()
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one example."""
        strides = self.stride or (1,) * len(self.extent)
        positions = (-(-n // stride) for n, stride in zip(self.extent, strides, strict=True))
        return math.prod(positions) * self.elements

    @property
    def elements(self) -> int:
        """Of the weights."""
        return self.outputs * math.prod(self.kernel) * self.inputs // self.groups

    def __str__(self) -> str:
        """Equal for equal layers; what their times are kept by."""
        at = "x".join(map(str, self.extent))
        if not self.kernel:
            return f"linear {self.inputs}-{self.outputs} at {at}"
        shape = (self.kernel, self.stride, self.padding, self.dilation)
        k, s, p, d = ("x".join(map(str, each)) for each in shape)
        return f"conv {self.inputs}-{self.outputs} k{k} s{s} p{p} d{d} g{self.groups} at {at}"


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers of which each reads what the one before makes."""

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def __str__(self) -> str:
        return " > ".join(map(str, self.layers))


@dataclass(frozen=True, slots=True)
class Site:
    """Where the widths of groups are: layers of the network that make a chain.

    Attributes:
        nodes: of the layers, the first one first.
        sizes: channels of the tensors inside the chain, or at both ends of a lone layer.
    """

    nodes: tuple[str, ...]
    sizes: tuple[Affine, ...]

    def touches(self, group: int) -> bool:
        return any(group == index for size in self.sizes for index, _ in size.terms)


class Network:
    """The layers of a network, and the sites between them.

    Attributes:
        sites: that can be timed.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._nodes = {node.name: node for node in space.graph.nodes}
        self._layers = {node.name for node in space.graph.nodes if self._is_layer(node)}
        self.sites = tuple(self._sites())

    def chain(self, site: Site, plan: Plan) -> Chain:
        """A site's layers at a plan."""
        return Chain(tuple(self._layer(name, plan) for name in site.nodes))

    def _is_layer(self, node: Node) -> bool:
        kind = self._space.graph.kind_of(node)
        if node.op != "module" or kind not in (*_CONVOLUTIONS, "Linear"):
            return False
        return self._layer(node.name, self._space.full).elements <= _LARGEST

    def _layer(self, name: str, plan: Plan) -> Layer:
        node = self._nodes[name]
        module = self._space.graph.module_of(node)
        ends = (self._read(name).at(plan), self._made(name).at(plan))
        shape = [each.size.at(plan) for each in self._space.node_shapes[node.inputs[0]]]
        if module.kind == "Linear":
            return Layer(*ends, (math.prod(shape[1:-1]),))
        constants = self._space.module_constants.get(node.target or "", {})
        groups = constants.get("groups", module.args["groups"])
        spatial = ("kernel_size", "stride", "padding", "dilation")
        kernel, stride, padding, dilation = (_ints(module.args[key]) for key in spatial)
        return Layer(
            *ends,
            tuple(shape[2:]),
            kernel,
            stride,
            padding,
            dilation,
            groups.at(plan) if isinstance(groups, Affine) else _int(groups),
        )

    def _read(self, name: str) -> Affine:
        """Channels that a layer reads."""
        return self._channels(name, self._nodes[name].inputs[0])

    def _made(self, name: str) -> Affine:
        return self._channels(name, name)

    def _channels(self, layer: str, tensor: str) -> Affine:
        return self._space.node_shapes[tensor][-1 if self._linear(layer) else 1].size

    def _positions(self, layer: str, tensor: str) -> tuple[Affine, ...]:
        extents = self._space.node_shapes[tensor]
        return tuple(each.size for each in (extents[1:-1] if self._linear(layer) else extents[2:]))

    def _linear(self, layer: str) -> bool:
        return self._space.graph.kind_of(self._nodes[layer]) == "Linear"

    def _depthwise(self, name: str) -> bool:
        layer = self._layer(name, self._space.full)
        return 1 < layer.groups == layer.inputs

    def _before(self, name: str) -> str | None:
        """The layer whose tensor reaches this one, its channels and its positions unchanged."""
        found = self._nodes[self._nodes[name].inputs[0]]
        while found.name not in self._layers:
            if not found.inputs:
                return None
            found = self._nodes[found.inputs[0]]
        read = self._nodes[name].inputs[0]
        same = self._linear(found.name) == self._linear(name)  # else channels change their place
        same = same and self._positions(found.name, found.name) == self._positions(name, read)
        return found.name if same and self._made(found.name) == self._read(name) else None

    def _sites(self) -> Iterator[Site]:
        followed: set[str] = set()
        for node in self._space.graph.nodes:
            if node.name not in self._layers:
                continue
            names, before = [node.name], self._before(node.name)
            while before is not None:
                names.insert(0, before)
                before = self._before(before) if self._depthwise(before) else None
            if len(names) == 1:
                yield Site((node.name,), (self._read(node.name),))
                continue
            followed |= set(names[:-1])
            if not self._depthwise(node.name):  # else it is inside the chain of what reads it
                yield Site(tuple(names), tuple(self._read(name) for name in names[1:]))
        for node in self._space.graph.nodes:
            if node.name in self._layers - followed:
                yield Site((node.name,), (self._made(node.name),))


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _ints(value: object) -> Ints:
    if not isinstance(value, Sequence):
        raise TypeError(f"{value!r} is no list")
    return tuple(_int(each) for each in value)
