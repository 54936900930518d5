"""The last step of a network where that makes probabilities of class scores. Imports no torch.

Losses and divergences are computed from scores: given probabilities in their place they come out
wrong, without an error. So the step is found in the graph, and what feeds it is read instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from espalier.format.ir import Batch, Graph, Node, TensorType, size
from espalier.format.operators import axis, infer, integer

HeadKind = Literal["softmax", "log_softmax", "sigmoid", "logsigmoid"]

_KINDS: Mapping[str, HeadKind] = {kind: kind for kind in get_args(HeadKind)}
_AFTER: Mapping[str, Mapping[HeadKind, HeadKind]] = {
    "log": {"softmax": "log_softmax", "sigmoid": "logsigmoid"},
    "exp": {"log_softmax": "softmax", "logsigmoid": "sigmoid"},
}
"""What a head comes to behind a function that undoes half of it."""
_HARMLESS = frozenset({"reshape", "contiguous", "dropout", "feature_dropout"})
"""Operators that leave an example's numbers as they are in inference, in their order."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a network turns class scores into probabilities.

    Attributes:
        kind: what it does; of the logarithm of probabilities, or the exponential of that, what it
            comes to.
        first: the node that reads the scores.
        last: the node that yields the probabilities, or their logarithms; mostly the same.
    """

    kind: HeadKind
    first: str
    last: str

    @property
    def independent(self) -> bool:
        """Whether it makes each class a yes or no by itself, instead of one choice of all."""
        return self.kind in ("sigmoid", "logsigmoid")


def head_of(graph: Graph) -> Head | None:
    """The head of a network with one output `(batch, classes)`; `None` if it yields the scores.

    A softmax counts only over all the classes of an example, and only if nothing but reshaping,
    a change of memory layout or dropout follows.
    """
    if len(graph.outputs) != 1:
        return None
    types, nodes = infer(graph), {node.name: node for node in graph.nodes}
    last = _before(nodes[graph.outputs[0]], nodes)
    first = _before(nodes[last.inputs[0]], nodes) if last.op in _AFTER else last
    kind = _KINDS.get(first.op)
    if last.op in _AFTER:
        kind = None if kind is None else _AFTER[last.op].get(kind)
    if kind is None or nodes[first.inputs[0]].op == "input":
        return None
    output, scores = types[graph.outputs[0]], types[first.name]
    rows = len(output.shape) == 2 and output.shape[0] == Batch(1)
    if not rows or scores.per_example() != output.per_example():
        return None
    if first.op.endswith("softmax") and not _over_all(first, scores):
        return None
    return Head(kind, first.name, last.name)


def _before(node: Node, nodes: Mapping[str, Node]) -> Node:
    """The last node that is not harmless, from here back."""
    while node.op in _HARMLESS:
        node = nodes[node.inputs[0]]
    return node


def _over_all(node: Node, kind: TensorType) -> bool:
    """Whether a softmax is over everything that an example has."""
    dim = kind.shape[axis(integer(node.attrs, "dim"), len(kind.shape))]
    return size(dim) == kind.per_example()


def without_head(graph: Graph, head: Head) -> Graph:
    """The graph that yields the scores; nodes, modules and tensors keep their names."""
    nodes = {node.name: node for node in graph.nodes}
    passed = {name: nodes[name].inputs[0] for name in (head.first, head.last)}

    def source(name: str) -> str:
        while name in passed:
            name = passed[name]
        return name

    behind, at = set(), graph.outputs[0]
    while at != head.first:
        behind.add(at)
        (at,) = nodes[at].inputs
    kept = [
        replace(node, inputs=tuple(map(source, node.inputs))) if node.name in behind else node
        for node in graph.nodes
    ]
    for name in (head.last, head.first):  # unless something reads it that leads nowhere
        if not any(name in node.inputs for node in kept if node.name != name):
            kept = [node for node in kept if node.name != name]
    return replace(graph, nodes=tuple(kept), outputs=tuple(map(source, graph.outputs)))
