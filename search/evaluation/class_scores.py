"""Class scores of networks that may end in a softmax or sigmoid, see `search.graph.head`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from espalier.format.build import build, graph_of, tensors_of
from espalier.format.ir import Graph
from search.graph import head_of, shrink, without_head
from search.space import Kept, SearchSpace

_MARK = "class_scores"
"""Key in a network's `meta`, which its cuts share: it has been left without its head. What it ends
in then may be the like of a head, of a softmax that is called twice."""


class ClassScores:
    """Reads a network's class scores, whatever it makes of them in the end.

    Args:
        space: of the original.
        skips: whether heads are left out at all; else outputs are taken for scores as they are.

    Attributes:
        head: of the original, if there is one that is left out.
        space: of the network that yields the scores: the same channel groups.
        independent: whether each class is a yes or no by itself, see `metrics`.
    """

    def __init__(self, space: SearchSpace, *, skips: bool) -> None:
        self.head = head_of(space.graph) if skips else None
        self.independent = self.head is not None and self.head.independent
        self._whole = self.space = space
        if self.head is not None:
            self.space = replace(space, graph=without_head(space.graph, self.head))

    @property
    def kind(self) -> str | None:
        """What the head does, by its name."""
        return None if self.head is None else self.head.kind

    def network(self, network: GraphModule) -> GraphModule:
        """The network up to its class scores; it shares all tensors with the one given.

        One without a head is given back as it is.
        """
        if self.head is None or network.meta.get(_MARK):
            return network
        graph = graph_of(network)
        head = head_of(graph)
        return network if head is None else _built(network, without_head(graph, head), bare=True)

    def whole(self, network: GraphModule, kept: Kept) -> GraphModule:
        """What was cut and trained up to its class scores as it is handed out, with its head.

        Args:
            kept: the channels that it has.
        """
        if self.head is None:
            return network
        return _built(network, shrink(self._whole, kept), bare=False)

    def of(self, network: nn.Module, outputs: Tensor) -> Tensor:
        """Class scores `(n, classes)` from what some network yields.

        Of a network that is no graph, as ONNX, they are inferred from the probabilities: of a
        softmax up to a constant, which no metric sees, and no finer than a float tells them.
        """
        if self.head is None or isinstance(network, GraphModule):
            return outputs
        logs = outputs if self.head.kind.startswith("log") else _log(outputs)
        # log(p) - log(1 - p), the inverse of the sigmoid
        return logs - _log(-torch.expm1(logs)) if self.independent else logs


def _built(network: GraphModule, graph: Graph, *, bare: bool) -> GraphModule:
    """A network of another graph around the same tensors."""
    built = build(graph, tensors_of(network))
    built.meta = {**network.meta, **built.meta, _MARK: bare}
    return built


def _log(shares: Tensor) -> Tensor:
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
