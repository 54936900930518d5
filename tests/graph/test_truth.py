"""A cut network equals the full one with the removed channels reading zero, whatever its shape."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from espalier.format.build import build
from espalier.format.ir import Batch, Graph
from espalier.format.operators import infer
from search.graph import shrink, space_of
from tests.graph.masking import (
    as_list,
    disagreement,
    doubled,
    error,
    random_inputs,
    random_kept,
    random_tensors,
    sliced,
)
from tests.graph.programs import random_graph


@pytest.mark.parametrize("block", range(8))
def test_random_networks_equal_their_masked_selves(block: int) -> None:
    groups = 0
    for seed in range(8 * block, 8 * block + 8):
        graph = random_graph(seed, steps=4 + seed % 20)
        assert disagreement(graph, seed) < 1e-9, f"seed {seed}"
        groups += len(space_of(graph).groups)
    assert groups  # otherwise nothing was cut


def _first_of(graph: Graph, results: object) -> list[torch.Tensor]:
    types = infer(graph)
    found = []
    for name, result in zip(graph.outputs, as_list(results), strict=True):
        at = [i for i, dim in enumerate(types[name].shape) if dim == Batch(1)]
        found += [result.select(i, 0) for i in at[:1]]
    return found


def test_examples_stay_apart_where_they_were() -> None:
    compared = 0
    for seed in range(30):
        graph = doubled(random_graph(seed, steps=10))
        space, tensors = space_of(graph), random_tensors(graph, seed)
        kept = random_kept(space, random.Random(seed))
        dense = build(graph, tensors).eval()
        small = build(shrink(space, kept), sliced(space, kept, tensors)).eval()
        two = random_inputs(graph, seed, batch=2)
        one = [each[:1] for each in two]
        with torch.no_grad():
            pairs = [(_first_of(graph, n(*one)), _first_of(graph, n(*two))) for n in (dense, small)]
        if not pairs[0][0] or error(*pairs[0]) > 1e-9:
            continue  # the full network mixes its examples itself
        assert error(*pairs[1]) < 1e-9, f"seed {seed}"
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("spanning", [False, True])
def test_shapes_of_random_networks_follow_the_plan(spanning: bool) -> None:
    generator = random.Random(7)
    for seed in range(1000, 1120):
        space = space_of(random_graph(seed, steps=seed % 30, spanning=spanning))
        for _ in range(3):
            kept = random_kept(space, generator)
            plan = tuple(map(len, kept))
            small = shrink(space, kept)
            for name, kind in infer(small).items():
                extents = space.node_shapes[name]
                sizes = [extent.size.at(plan) for extent in extents]
                expected = [Batch(s) if e.batch else s for s, e in zip(sizes, extents, strict=True)]
                assert list(kind.shape) == expected, f"seed {seed}, node {name}"


def test_positions_are_disjoint_and_account_for_every_size() -> None:
    for seed in range(1000, 1060):
        space = space_of(random_graph(seed, steps=seed % 30, spanning=True))
        owned: dict[tuple[str, int], list[int]] = {}
        for group in space.groups:
            for member in group.members:
                assert len(member.positions) == group.channels
                found = np.array(member.positions).ravel().tolist()
                owned.setdefault((member.tensor, member.dim), []).extend(found)
        for (tensor, dim), positions in owned.items():
            assert len(set(positions)) == len(positions)
            size = space.stored_shapes[tensor][dim]
            assert size.constant == space.graph.stored[tensor].shape[dim] - len(positions)
            assert size.at(space.full) == space.graph.stored[tensor].shape[dim]
