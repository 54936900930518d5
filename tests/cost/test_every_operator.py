"""The cost of every operator and module of the format's table, against torch's own counts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

import numpy as np
import pytest
from torch import Tensor

from espalier.format.build import build
from espalier.format.ir import Batch, Graph, Node
from espalier.format.lift import lift
from espalier.format.operators import MODULES, OPERATORS
from search.cost import CostModel
from search.cost.macs import MACS
from search.graph import space_of
from search.pruning import apply, everything
from tests.cost.test_against_networks import measured
from tests.format import table
from tests.pruning.cases import plan_of, random_kept

COUNTED = {"Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "Linear", "linear"}
COUNTED |= {"matmul", "attention"}


@functools.cache
def whole() -> tuple[Graph, dict[str, Tensor], tuple[Tensor, ...]]:
    network, example = table.everything()
    return *lift(network, example), example


def up_to(names: Collection[str]) -> tuple[Graph, dict[str, Tensor], tuple[Tensor, ...]]:
    """The part of the table's network that leads to some of its nodes, with inputs of one."""
    graph, tensors, example = whole()
    needed = set(names)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            nodes.insert(0, node)
            needed.update(node.inputs)
    used = {node.target for node in nodes}
    modules = {path: module for path, module in graph.modules.items() if path in used}
    stored = {n: s for n, s in graph.stored.items() if n in used or n.rpartition(".")[0] in modules}
    inputs = {name: kind for name, kind in graph.inputs.items() if name in needed}
    given = tuple(
        x[:1].clone() for name, x in zip(graph.inputs, example, strict=True) if name in needed
    )
    part = Graph(tuple(nodes), modules, stored, inputs, tuple(names), len(names) == 1)
    return part, {name: tensors[name] for name in stored}, given


def kinds() -> dict[str, Node]:
    """The first node of each operator and module kind."""
    graph = whole()[0]
    found: dict[str, Node] = {}
    for node in graph.nodes:
        found.setdefault(graph.kind_of(node), node)
    return found


def test_every_operator_and_module_says_its_macs() -> None:
    assert MACS.keys() == OPERATORS.keys() | MODULES.keys() | {"input", "tensor"}
    assert OPERATORS.keys() | MODULES.keys() <= kinds().keys()


@pytest.mark.parametrize("kind", sorted({*OPERATORS, *MODULES}))
def test_each_costs_what_torch_counts(kind: str) -> None:
    """The steps up to it, and it alone: what it adds to the MACs."""
    node = kinds()[kind]
    graph, tensors, inputs = up_to([node.name])
    space = space_of(graph)
    found = CostModel(space).of(space.full)
    assert found == measured(build(graph, tensors).requires_grad_(False), *inputs)
    before, held, given = up_to(list(dict.fromkeys(node.inputs)))
    network = build(before, held).requires_grad_(False)
    added = found["macs"] - measured(network, *given)["macs"]
    assert (added > 0) == (kind in COUNTED)


@pytest.mark.parametrize("name", [*table.FUNCTIONS, "images", "sequences", "volumes", "rows"])
def test_each_costs_what_torch_counts_when_it_is_cut(name: str) -> None:
    branches = [f"heads.{index}" for index in range(len(table.FUNCTIONS))]
    branches += [f"last.{index}" for index in range(4)]
    target = branches[[*table.FUNCTIONS, "images", "sequences", "volumes", "rows"].index(name)]
    (head,) = (node.name for node in whole()[0].nodes if node.target == target)
    graph, tensors, inputs = up_to([head])
    space, network = space_of(graph), build(graph, tensors)
    generator = np.random.default_rng(0)
    for kept in (everything(space), random_kept(space, generator), random_kept(space, generator)):
        found = CostModel(space).of(plan_of(kept))
        assert found == measured(apply(network, space, kept), *inputs)


@pytest.mark.parametrize("kind", sorted(table.ACTIVATIONS))
def test_an_activation_keeps_its_layout(kind: str) -> None:
    """Behind channels that come last: whether flattening copies is a matter of the peak."""
    node = next(node for node in whole()[0].nodes if node.op == kind)
    graph, tensors, inputs = up_to([node.name])
    permuted = Node("order", "contiguous", node.inputs, {"channels_last": True})
    flat = Node("flat", "reshape", (node.name,), {"shape": (Batch(1), 4 * 6 * 8)})
    nodes = (*graph.nodes[:-1], permuted, dataclasses.replace(node, inputs=("order",)), flat)
    graph = dataclasses.replace(graph, nodes=nodes, outputs=("flat",))
    space = space_of(graph)
    assert CostModel(space).of(space.full) == measured(build(graph, tensors), *inputs)
