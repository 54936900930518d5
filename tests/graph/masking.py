"""Networks with removed channels masked, and the same networks cut: they have to agree."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx

from espalier.format.build import build
from espalier.format.ir import Graph, size
from search.graph import shrink, space_of
from search.graph.space import SpaceBuilder
from search.space import Kept, SearchSpace


def doubled(graph: Graph) -> Graph:
    """The graph in double precision."""
    return replace(
        graph,
        stored={
            name: replace(entry, dtype="float64") if entry.dtype == "float32" else entry
            for name, entry in graph.stored.items()
        },
        inputs={name: replace(kind, dtype="float64") for name, kind in graph.inputs.items()},
    )


def random_tensors(graph: Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, entry in graph.stored.items():
        tensor = torch.randn(entry.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor = tensor.abs() + 0.5
        tensors[name] = tensor.to(getattr(torch, entry.dtype))
    return tensors


def random_inputs(graph: Graph, seed: int, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn((batch, *map(size, kind.shape[1:])), generator=generator, dtype=torch.float64)
        for kind in graph.inputs.values()
    ]


def random_kept(space: SearchSpace, chance: random.Random) -> Kept:
    return tuple(
        tuple(sorted(chance.sample(range(g.channels), chance.randint(1, g.channels))))
        for g in space.groups
    )


def sliced(space: SearchSpace, kept: Kept, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors without the positions of the removed channels."""
    gone: dict[tuple[str, int], set[int]] = {}
    for group, indices in zip(space.groups, kept, strict=True):
        removed = set(range(group.channels)).difference(indices)
        for member in group.members:
            lost = (p for channel in removed for p in member.positions[channel])
            gone.setdefault((member.tensor, member.dim), set()).update(lost)
    result = dict(tensors)
    for (tensor, dim), positions in gone.items():
        length = tensors[tensor].shape[dim]
        left = torch.tensor([i for i in range(length) if i not in positions])
        result[tensor] = result[tensor].index_select(dim, left)
    return result


def masks(space: SearchSpace, kept: Kept) -> dict[str, list[Tensor]]:
    """By node: what to multiply its tensor with, so that removed positions read as zero."""
    builder = SpaceBuilder(space.graph)
    classes, units = builder.coupling.classes, builder.units
    alive = np.ones(len(classes), dtype=bool)
    for root in np.flatnonzero(units.group[classes] >= 0):
        owner = classes[root]
        alive[root] = int(units.rank[owner]) in kept[int(units.group[owner])]
    found = {}
    for name, value in builder.coupling.values.items():
        found[name] = [
            torch.from_numpy(
                alive[block.atoms].reshape(
                    [s if d in block.dims else 1 for d, s in enumerate(value.shape)]
                )
            )
            for block in value.blocks
        ]
    return found


class Masked(fx.Interpreter):
    """Runs a network for one example with the masks applied after every node."""

    def __init__(self, network: fx.GraphModule, masks: Mapping[str, list[Tensor]]) -> None:
        super().__init__(network)
        self.masks = masks

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        for mask in self.masks.get(n.name, []):
            assert isinstance(result, Tensor)
            result = torch.where(mask, result, torch.zeros_like(result))
        return result


def as_list(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]


def error(found: object, expected: object) -> float:
    """The largest relative difference of two networks' outputs."""
    return max(
        float((a - b).abs().max() / (1e-9 + b.abs().max()))
        for a, b in zip(as_list(found), as_list(expected), strict=True)
    )


def disagreement(graph: Graph, seed: int) -> float:
    """How far a random cut of a network with random weights is from the masked network."""
    graph = doubled(graph)
    space = space_of(graph)
    kept = random_kept(space, random.Random(seed))
    tensors, inputs = random_tensors(graph, seed), random_inputs(graph, seed)
    dense = build(graph, tensors).eval()
    small = build(shrink(space, kept), sliced(space, kept, tensors)).eval()
    with torch.no_grad():
        expected = Masked(dense, masks(space, kept)).run(*inputs)
        return error(small(*inputs), expected)
