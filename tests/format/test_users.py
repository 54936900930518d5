"""Networks as users write them go all the way: packed, loaded, cut, and written as ONNX."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import espalier
from espalier.format.ir import Graph
from espalier.format.lift import lift
from search.export.onnx import export_onnx
from search.graph import space_of
from search.pruning import apply
from tests.format.users import USERS, user
from tests.graph.masking import disagreement


@functools.cache
def graph_of(name: str) -> Graph:
    return lift(*user(name))[0]


@pytest.mark.parametrize("name", USERS)
def test_loaded_it_has_the_same_bits_and_trains(name: str, tmp_path: Path) -> None:
    network, example = user(name)
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))
    for batch in (1, 3):
        x = torch.cat([example, example + 0.1])[:batch]
        assert torch.equal(network(x), loaded(x))
    loaded.train()
    loaded(example).square().sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.parametrize("name", [name for name, (*_, spans) in USERS.items() if not spans])
def test_cut_it_equals_its_masked_self(name: str) -> None:
    assert space_of(graph_of(name)).groups
    for seed in range(2):
        assert disagreement(graph_of(name), seed) < 1e-9


@pytest.mark.filterwarnings("ignore:# 'torch.onnx.export':UserWarning")
@pytest.mark.parametrize("name", ["decoder"])  # its operators; test_table exports the others
def test_cut_in_half_it_is_written_as_onnx(name: str, tmp_path: Path) -> None:
    network, example = user(name)
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))
    space = space_of(graph_of(name))
    kept = tuple(tuple(range(-(-group.channels // 2))) for group in space.groups)
    export_onnx(apply(loaded, space, kept), example, tmp_path / "n.onnx", {})
