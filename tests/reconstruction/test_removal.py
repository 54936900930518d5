"""The order of removal against every other choice, judged by least squares done at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from espalier.format.build import build, tensors_of
from espalier.format.lift import lift
from search.graph import space_of
from search.reconstruction import Parallel
from search.reconstruction.layers import layers
from search.space import SearchSpace
from tests.pruning.cases import case
from tests.reconstruction.test_reconstruction import Recorder, batches, inputs

Rows = list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]]


def lost(rows: Rows, gone: list[int]) -> float:
    """What least squares on the rows leaves of each layer's variance, summed over layers.

    Args:
        rows: by layer and group of its convolution: inputs `(rows, features)`, outputs, and the
            features `(channels, k)` that each channel owns.
    """
    total = 0.0
    for x, y, owned in rows:
        left = np.setdiff1d(np.arange(x.shape[1]), owned[gone].flatten())
        solved = np.linalg.lstsq(x[:, left], y, rcond=None)[0]
        total += float(((y - x[:, left] @ solved) ** 2).sum() / (y**2).sum())
    return total


def rows_of(space: SearchSpace, network: fx.GraphModule, x: Tensor, group: int) -> Rows:
    """Centred where a constant can make good a mean."""
    seen = Recorder(network).values(x)
    by_weight = {layer.weight: layer for layer in layers(space.graph)}
    found: Rows = []
    for member in space.groups[group].members:
        layer = by_weight.get(member.tensor)
        if member.role != "consumes" or layer is None:
            continue
        features = layer.inputs(seen[layer.source]).double()
        weight = tensors_of(network)[layer.weight]
        outputs = features @ layer.matrix(weight).double().mT
        if layer.carries_constant:
            features = features - features.mean(1, keepdim=True)
            outputs = outputs - outputs.mean(1, keepdim=True)
        kernel = features.shape[-1] // weight.shape[1]
        owned = np.array(
            [[i + k * weight.shape[1] for k in range(kernel) for i in p] for p in member.positions]
        )
        assert layer.groups == 1
        found.append((features[0].numpy(), outputs[0].numpy(), owned))
    return found


@pytest.mark.parametrize("name", ["resnet18", "vgg", "mobilenet_v2_bn", "vit_multihead", "mlp"])
def test_each_step_costs_what_it_says_and_no_other_costs_less(name: str) -> None:
    found = case(name)
    x = torch.cat([inputs(found.example, seed) for seed in range(12)])
    parallel = Parallel(found.network, found.space, batches(x), 1e-10)
    checked = 0
    for group in range(len(found.space.groups)):
        rows = rows_of(found.space, found.network, x, group)
        if not rows or any(len(a) < 4 * a.shape[1] for a, _, _ in rows):
            continue  # too few rows to tell
        removal = parallel.removal(group)
        assert removal is not None
        count = found.space.groups[group].channels
        assert sorted(removal.order) == list(range(count))
        assert list(removal.errors) == sorted(removal.errors)
        assert removal.errors[0] == 0
        for went in {0, 1, count // 2} & set(range(count - 1)):
            gone, chosen = list(removal.order[:went]), removal.order[went]
            costs = {c: lost(rows, [*gone, c]) for c in range(count) if c not in gone}
            assert costs[chosen] <= min(costs.values()) * (1 + 1e-3) + 1e-6
            assert removal.errors[went + 1] == pytest.approx(costs[chosen], rel=1e-2, abs=1e-5)
            checked += 1
        if checked > 8:
            break
    assert checked


def test_of_many_channels_several_go_at_once_and_their_joint_cost_counts() -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 4)).eval()
    x = torch.randn(4000, 6)
    graph, tensors = lift(original, x[:2])
    network, space = build(graph, tensors), space_of(graph)
    removal = Parallel(network, space, [x], 1e-8).removal(0)
    assert removal is not None
    assert sorted(removal.order) == list(range(300))
    assert all(a <= b for a, b in itertools.pairwise(removal.errors))
    rows = rows_of(space, network, x, 0)
    for went in (100, 200):
        exact = lost(rows, list(removal.order[:went]))
        assert removal.errors[went] == pytest.approx(exact, rel=0.1, abs=1e-4)


def test_a_copy_goes_first_and_costs_nothing() -> None:
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    original = nn.Sequential(first, nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[5] = tensor[2]
    x = torch.randn(500, 6)
    graph, tensors = lift(original, x[:2])
    removal = Parallel(build(graph, tensors), space_of(graph), [x], 1e-6).removal(0)
    assert removal is not None
    assert removal.order[0] in (2, 5)
    assert removal.errors[1] < 1e-4 < removal.errors[2]
