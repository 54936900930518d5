"""What AMC's agent sees of a channel group: the paper's state, for groups and any operator.

The paper (He et al. 2018, arXiv:1802.03494, equation 1) describes layer t by

    (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a_(t-1))

Here t counts channel groups in the order of the network. Several layers may make a group's
channels; the first of them, which names the group, is described unless said otherwise.

    t                   index of the group, as a number and one-hot
    linear, attention   1 if the layer is a linear map; 1 if the group's channels are attention
                        heads, or positions within heads; both 0 for a convolution
    n                   outputs of the layer that are the group's: channels times positions of each
    c                   inputs of one output, summed over all layers that make the group
    h, w                size of the layer's output; a sequence has its length and 1, a vector 1, 1
    stride, k           of the window along its first dimension; 1, 1 without a window
    flops               cost in proportion to the group's width, at full width
    reduced             cost removed by the decisions so far, later groups being whole
    rest                cost that later groups can still remove, each down to its lower bound
    a_(t-1)             keep ratio of the group before; 1 at the start

The columns up to `k` follow from the network and are scaled to [0, 1] over its groups. Costs are
shares of the original's, by the true cost of whole plans, for the limit that is the tightest.
Without a network (`Problem.space` is `None`), `n` is the group's width and the other columns that
take layers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from espalier.format.ir import Attr, Graph, Node
from search.space import ChannelGroup, Plan, SearchSpace
from search.strategies.base import IntArray, Problem
from search.strategies.ddpg import Floats

NETWORK = ("linear", "attention", "n", "c", "h", "w", "stride", "k")

Reals = NDArray[np.float64]


def describe(space: SearchSpace) -> Reals:
    """`(groups, 8)`: the columns `NETWORK` of each group, not yet scaled."""
    makers = _makers(space.graph)
    mixed = _in_products(space)
    rows = [_row(space, makers, group, i in mixed) for i, group in enumerate(space.groups)]
    return np.array(rows, dtype=np.float64).reshape(-1, len(NETWORK))


def _makers(graph: Graph) -> Mapping[str, Node]:
    """The first node that applies each stored weight, by the weight's name."""
    raw = {node.name: node.target for node in graph.nodes if node.op == "tensor"}
    found: dict[str, Node] = {}
    for node in graph.nodes:
        names = [f"{node.target}.weight"] if node.op == "module" else map(raw.get, node.inputs)
        for name in names:
            if name is not None:
                found.setdefault(name, node)
    return found


def _in_products(space: SearchSpace) -> set[int]:
    """Groups whose channels lie in a factor of a product of activations, as heads do."""
    graph, groups = space.graph, set[int]()
    given = {node.name for node in graph.nodes if node.op == "tensor"}
    for node in graph.nodes:
        if node.op in ("attention", "matmul") and given.isdisjoint(node.inputs):
            shapes = [space.node_shapes[name] for name in node.inputs[:2]]
            groups.update(g for shape in shapes for dim in shape for g, _ in dim.size.terms)
    return groups


def _row(
    space: SearchSpace, makers: Mapping[str, Node], group: ChannelGroup, in_product: bool
) -> Sequence[float]:
    graph = space.graph
    weights = [
        member
        for member in group.members
        if member.role == "produces"
        and member.dim < 2
        and len(graph.stored[member.tensor].shape) > 1
    ]
    if not weights:  # nothing but vectors
        return 0, in_product, group.channels, 0, 1, 1, 1, 1
    # A weight has its outputs along the dimension that is cut, and its inputs along the other.
    fan_in = sum(graph.stored[member.tensor].shape[1 - member.dim] for member in weights)
    first = weights[0]
    outputs = group.channels * len(first.positions[0])
    node = makers.get(first.tensor)
    if node is None:
        return 0, in_product, outputs, fan_in, 1, 1, 1, 1
    full, kind = space.full, graph.kind_of(node)
    sizes = [extent.size.at(full) for extent in space.node_shapes[node.name]]
    if kind.startswith("Conv"):
        arguments = graph.module_of(node).args
        height, width = (*sizes[2:], 1, 1)[:2]
        stride, window_ = _first(arguments.get("stride", 1)), _first(arguments["kernel_size"])
        return 0, in_product, outputs, fan_in, height, width, stride, window_
    return 1, in_product, outputs, fan_in, math.prod(sizes[:-1]), 1, 1, 1


def _first(value: Attr) -> float:
    number = value[0] if isinstance(value, tuple) else value
    return float(number) if isinstance(number, int | float) else 1.0


class States:
    """The states of the walk over the groups, for any plan.

    Args:
        floor: the lower bound of each group's width.

    Attributes:
        count: length of a state.
    """

    def __init__(self, problem: Problem, floor: Plan) -> None:
        self._cost = problem.cost
        self._full = np.array(problem.full, dtype=np.int64)
        self._floor = np.array(floor, dtype=np.int64)
        full, limits = problem.cost.of(problem.full), problem.budget.limits
        self._name = max(limits, key=lambda name: full[name] / limits[name])
        self._original = max(full[self._name], 1)
        network = (
            self._full[:, None].astype(np.float64)
            if problem.space is None
            else describe(problem.space)
        )
        groups = len(self._full)
        narrowest = [options[0] for options in problem.choices]
        columns = [np.eye(groups), _scaled(np.arange(groups, dtype=np.float64)[:, None])]
        columns += [_scaled(network), self._shares(narrowest)[:, None]]
        self._static: Floats = np.concatenate(columns, 1).astype(np.float32)
        self.count = self._static.shape[1] + 3

    def _costs(self, plans: IntArray) -> Reals:
        """Costs of plans `(p, groups)`, as shares of the original's."""
        costs: Reals = self._cost.many(plans, (self._name,))[self._name] / self._original
        return costs

    def _shares(self, narrowest: Sequence[int]) -> Reals:
        """`(groups,)` the cost in proportion to each group's width, at full width."""
        groups = len(self._full)
        if not groups:
            return np.zeros(0)
        plans = np.tile(self._full, (groups, 1))
        np.fill_diagonal(plans, narrowest)
        removed = 1 - np.array(narrowest) / self._full
        saved = 1 - self._costs(plans)
        return np.divide(saved, removed, out=np.zeros(groups), where=removed > 0)

    def of(self, plans: IntArray, groups: IntArray) -> Floats:
        """The states in which walks decide on one group each.

        Args:
            plans: `(p, groups)`; what comes before each walk's group counts as decided.
            groups: `(p,)`.
        Returns:
            `(p, features)`.
        """
        rows, order = np.arange(len(plans)), np.arange(plans.shape[1])
        whole = np.where(order >= groups[:, None], self._full, plans)
        least = np.where(order > groups[:, None], self._floor, whole)
        high, low = np.split(self._costs(np.concatenate([whole, least])), 2)
        before = np.where(groups > 0, (plans / self._full)[rows, groups - 1], 1.0)
        dynamic = np.stack([1 - high, high - low, before], 1).astype(np.float32)
        return np.concatenate([self._static[groups], dynamic], 1)


def _scaled(columns: Reals) -> Reals:
    """Each column moved and scaled to [0, 1]; 0 where it is constant."""
    if not len(columns):
        return columns
    low, span = columns.min(0), np.ptp(columns, 0)
    scaled: Reals = np.divide(columns - low, span, out=np.zeros_like(columns), where=span > 0)
    return scaled
