"""The network zoo: which groups are found, and that their cuts fit."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.format.ir import Batch, Graph
from espalier.format.lift import lift
from espalier.format.operators import infer
from search.graph import shrink, space_of
from search.space import SearchSpace
from tests.counting import counting
from tests.graph.masking import random_kept
from tests.networks import ZOO


@functools.cache
def graph_of(name: str) -> Graph:
    network, example = ZOO[name]()
    return lift(network, example)[0]


@functools.cache
def space(name: str) -> SearchSpace:
    return space_of(graph_of(name))


def sizes(name: str) -> dict[str, int]:
    return {group.name: group.channels for group in space(name).groups}


def tensors(name: str, group: str, role: str, dim: int) -> list[str]:
    found = next(g for g in space(name).groups if g.name == group)
    return [m.tensor for m in found.members if m.role == role and m.dim == dim]


@pytest.mark.parametrize("name", ZOO)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_every_cut_fits_and_has_the_sizes_that_the_space_says(name: str, seed: int) -> None:
    kept = random_kept(space(name), random.Random(seed))
    plan = tuple(map(len, kept))
    small = shrink(space(name), kept)
    for node, kind in infer(small).items():
        extents = space(name).node_shapes[node]
        values = [(extent.size.at(plan), extent.batch) for extent in extents]
        assert kind.shape == tuple(Batch(size) if batch else size for size, batch in values)
    for tensor, entry in small.stored.items():
        assert entry.shape == tuple(a.at(plan) for a in space(name).stored_shapes[tensor])


@pytest.mark.parametrize("name", ZOO)
def test_keeping_all_changes_nothing(name: str) -> None:
    every = tuple(tuple(range(group.channels)) for group in space(name).groups)
    small = shrink(space(name), every)
    graph = graph_of(name)
    assert (small.nodes, small.modules, small.stored) == (graph.nodes, graph.modules, graph.stored)


@pytest.mark.parametrize("name", ZOO)
def test_there_is_something_to_cut_and_the_rest_is_explained(name: str) -> None:
    found = space(name)
    assert found.groups
    assert len({group.name for group in found.groups}) == len(found.groups)
    assert all(group.channels > 1 for group in found.groups)
    assert all(excluded.reason and excluded.channels > 0 for excluded in found.excluded)
    # every row of every convolution and linear map is in a group, or explained by what it is
    # tied to: the graph's output at least
    assert found.excluded
    assert space_of(graph_of(name)) == found


def test_residual_stages_are_one_group_each() -> None:
    found = sizes("resnet20b")
    stages = {name: size for name, size in found.items() if not name.endswith("conv1")}
    assert (found["conv1"], *stages.values()) == (8, 16, 32)
    assert sum(name.endswith(".conv1") for name in found) == 9
    assert tensors("resnet20b", "conv1", "produces", 0)[0] == "conv1.weight"
    assert sum("conv2" in t for t in tensors("resnet20b", "conv1", "produces", 0)) == 3


def test_zero_padded_stages_share_the_first_stage() -> None:
    found = sizes("resnet20a")
    streams = {name: size for name, size in found.items() if ".conv1" not in name}
    # 8 channels run through all stages; each later stage adds a quarter of its own at either end
    assert sorted(streams.values()) == [4, 4, 8, 8, 8]
    assert sum(name.endswith(".conv1") for name in found) == 9
    stream = tensors("resnet20a", "conv1", "produces", 0)
    assert {t.split(".")[0] for t in stream if "conv2" in t} == {"layer1", "layer2", "layer3"}


def test_inverted_residuals_tie_expansion_and_depthwise() -> None:
    name = "mobilenet_v2"
    block = next(group for group in space(name).groups if group.name == "blocks.1.expand")
    cut = {(m.tensor.rsplit(".", 1)[0], m.dim) for m in block.members}
    prefix = "blocks.1."
    assert {(prefix + "expand", 0), (prefix + "project", 1)} <= cut
    assert any(path.startswith(prefix + "d") and dim == 0 for path, dim in cut)


def test_dense_connections_leave_every_layer_its_own_group() -> None:
    found = sizes("densenet")
    assert found["stem"] == 8
    assert {size for name, size in found.items() if name.endswith("conv2")} == {6}
    readers = tensors("densenet", "stem", "consumes", 1)
    assert [r for r in readers if r.endswith("conv1.weight")] == [
        f"block1.{i}.conv1.weight" for i in range(3)
    ]


def test_squeeze_and_excitation_follows_what_it_scales() -> None:
    group = next(g for g in space("squeeze_excite").groups if g.name == "conv1")
    found = {(m.tensor, m.dim) for m in group.members}
    assert {("se1.fc1.weight", 1), ("se1.fc2.weight", 0)} <= found


@pytest.mark.parametrize(
    ("name", "producer"),
    [
        ("vit_fused", "qkv"),
        ("vit_spelled_out", "q"),
        ("vit_multihead", "in_proj_weight"),
    ],
)
def test_vision_transformers_lose_heads_neurons_and_width(name: str, producer: str) -> None:
    found = sizes(name)
    assert found == {
        "patches": 24,
        f"layers.0.attn.{producer}": 3,
        "layers.0.fc1": 48,
        f"layers.1.attn.{producer}": 3,
        "layers.1.fc1": 48,
    }
    heads = next(g for g in space(name).groups if g.name == f"layers.0.attn.{producer}")
    rows = [m for m in heads.members if m.role == "produces" and m.dim == 0]
    weights = {m.tensor: m for m in rows if len(space(name).graph.stored[m.tensor].shape) == 2}
    # queries, keys and values of one head: three times its eight rows
    assert sum(len(m.positions[0]) for m in weights.values()) == 24
    (out,) = (m for m in heads.members if m.role == "consumes")
    assert out.positions == tuple(tuple(range(8 * h, 8 * h + 8)) for h in range(3))
    assert tensors(name, "patches", "follows", 2) == ["token", "positions"]


def test_the_work_of_the_analysis_grows_with_the_depth_and_no_faster() -> None:
    work = []
    for name in ("resnet20a", "resnet56a"):
        graph = graph_of(name)
        with counting() as counter:
            space_of(graph)
        work.append(counter.calls / len(graph.nodes))
    shallow, deep = work
    assert deep < 1.2 * shallow
    assert deep < 1000
