"""The code of a network, written from its graph as a `torch.fx.Graph`.

Every function comes from a table of ours; a graph only chooses among them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from espalier.format.build_operators import FUNCTIONS, Call, free_size, has_batch
from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.ir import Attr, Batch, Graph, Node


@dataclass(frozen=True)
class Targets:
    """What the code calls things.

    Attributes:
        aliases: by path, of those modules and tensors whose path cannot be written in code.
        switches: paths of the modules made for operators that depend on `.train()`, by node.
    """

    aliases: Mapping[str, str]
    switches: Mapping[str, str]


class FeatureDropout(nn.Module):
    """Whole channels dropped while training, at any number of dimensions.

    Args:
        p: probability of dropping a channel.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, ...)` to the same."""
        return torch.feature_dropout(x, self.p, self.training)


class Attention(nn.Module):
    """Scaled dot-product attention whose weights are dropped out while training.

    Args:
        p: probability of dropping a weight.
        scale: factor on the products; `None` for one over the root of the head's size.
        causal: whether a position sees only those before it.
    """

    def __init__(self, p: float, scale: float | None, causal: bool) -> None:
        super().__init__()
        self.p, self.scale, self.causal = p, scale, causal

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """`(..., n, d), (..., m, d), (..., m, e) -> (..., n, e)`."""
        return nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            dropout_p=self.p if self.training else 0.0,
            is_causal=self.causal,
            scale=self.scale,
        )


def switch(node: Node) -> nn.Module | None:
    """The module of an operator that depends on `.train()`; `None` for all others."""
    attrs = node.attrs
    if node.op == "dropout":
        return nn.Dropout(_probability(attrs["p"]))
    if node.op == "feature_dropout":
        return FeatureDropout(_probability(attrs["p"]))
    if node.op == "attention" and attrs["dropout"]:
        scale = None if attrs["scale"] is None else _real(attrs["scale"])
        return Attention(_probability(attrs["dropout"]), scale, bool(attrs["causal"]))
    return None


def write(graph: Graph, targets: Targets) -> fx.Graph:
    """The code of a graph.

    Raises:
        UnsupportedOperator: it has an operator that is not in the table.
        FormatError: an attribute of a node is of the wrong kind.
    """
    return _Writer(graph, targets).run()


class _Writer:
    """Writes the code, node by node."""

    def __init__(self, graph: Graph, targets: Targets) -> None:
        self.graph, self.targets = graph, targets
        self.code = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.multiples: dict[int, fx.Node] = {}
        self.names = frozenset(node.name for node in graph.nodes)

    def _add(self, node: Node, kind: str, target: Any, args: tuple[Any, ...] = ()) -> fx.Node:
        return self.code.create_node(kind, target, args, name=node.name)

    def _target(self, node: Node) -> str:
        path = node.target or ""
        return self.targets.aliases.get(path, path)

    def _multiple(self, factor: int) -> fx.Node:
        """The node of `factor` times the batch size."""
        if factor not in self.multiples:
            name = "batch" if factor == 1 else f"batch_times_{factor}"
            while name in self.names:
                name += "_"
            if factor == 1:
                first = self.nodes[next(iter(self.graph.inputs))]
                made = self.code.create_node("call_method", "size", (first, 0), name=name)
            else:
                pair = (self._multiple(1), factor)
                made = self.code.create_node("call_function", operator.mul, pair, name=name)
            self.multiples[factor] = made
        return self.multiples[factor]

    def _resolve(self, shape: Attr) -> tuple[Any, ...]:
        if not isinstance(shape, tuple):
            raise FormatError(f"{shape!r} is no shape")
        return tuple(self._multiple(dim.factor) if isinstance(dim, Batch) else dim for dim in shape)

    def _operator(self, node: Node) -> fx.Node:
        if node.name in self.targets.switches:
            path = self.targets.switches[node.name]
            return self._add(node, "call_module", path, tuple(self.nodes[n] for n in node.inputs))
        if node.op not in FUNCTIONS:
            raise UnsupportedOperator(f"node {node.name} is a {node.op}, not in the table")
        values = [self.nodes[name] for name in node.inputs]
        call: Call = FUNCTIONS[node.op](values, node.attrs, self._resolve)
        return self.code.create_node(
            "call_function", call.function, call.args, dict(call.kwargs), name=node.name
        )

    def _node(self, node: Node) -> fx.Node:
        if node.op == "input":
            return self._add(node, "placeholder", node.name)
        if node.op == "tensor":
            return self._add(node, "get_attr", self._target(node))
        if node.op == "module":
            inputs = tuple(self.nodes[n] for n in node.inputs)
            return self._add(node, "call_module", self._target(node), inputs)
        return self._operator(node)

    def run(self) -> fx.Graph:
        by_name = {node.name: node for node in self.graph.nodes}
        for name in self.graph.inputs:  # the order of the arguments
            self.nodes[name] = self._node(by_name[name])
        if any(has_batch(node.attrs.get("shape")) for node in self.graph.nodes):
            self._multiple(1)
        for node in self.graph.nodes:
            if node.op != "input":
                self.nodes[node.name] = self._node(node)
        outputs = tuple(self.nodes[name] for name in self.graph.outputs)
        self.code.output(outputs[0] if self.graph.single else outputs)
        return self.code


def _real(value: Attr) -> float:
    if not isinstance(value, float):
        raise FormatError(f"{value!r} is no number")
    return value


def _probability(value: Attr) -> float:
    if not 0 <= _real(value) <= 1:
        raise FormatError(f"a probability of {value!r}")
    return _real(value)


def same_code(left: Graph, right: Graph) -> bool:
    """Whether `build` writes the same code for two graphs, their modules and tensors apart."""
    return len(left.nodes) == len(right.nodes) and all(
        one is other or _written(one) == _written(other)
        for one, other in zip(left.nodes, right.nodes, strict=True)
    )


def _written(node: Node) -> Node:
    if node.op != "reshape":
        return node
    return replace(node, attrs={"shape": free_size(node.attrs["shape"])})
