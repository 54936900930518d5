"""torch-pruning 1.6.1 removes the same rows and columns of the same layers, where it is right."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tests.graph.test_zoo import space
from tests.networks import ZOO

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp

INPUTS = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


def cut_by_oracle(network: nn.Module, example: torch.Tensor, row: tuple[str, int]) -> set[object]:
    """(tensor, dimension, position) of what goes with one row of one layer."""
    names = {module: name for name, module in network.named_modules()}
    layer = network.get_submodule(row[0])
    prune = tp.prune_linear_out_channels
    if isinstance(layer, nn.Conv2d):
        prune = tp.prune_conv_out_channels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(network, example)
        group = graph.get_pruning_group(layer, prune, idxs=[row[1]])
    found: set[object] = set()
    for dependency, indices in group:
        module = dependency.target.module
        if module not in names:
            continue
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        dim = 1 if dependency.handler in INPUTS and not depthwise else 0
        found |= {(f"{names[module]}.weight", dim, index) for index in indices}
    return found


@pytest.mark.parametrize("name", ["resnet20b", "mobilenet_v1_bn", "mobilenet_v2_bn", "densenet"])
def test_one_channel_takes_the_same_with_it(name: str) -> None:
    network, example = ZOO[name]()
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # its tracing follows gradients
    groups = space(name).groups
    for group in (groups[0], groups[len(groups) // 2], groups[-1]):
        first = next(m for m in group.members if m.role == "produces")
        channel = group.channels // 2
        (row,) = first.positions[channel]
        expected = cut_by_oracle(network, example, (first.tensor.removesuffix(".weight"), row))
        found = {
            (member.tensor, member.dim, position)
            for member in group.members
            if member.tensor.endswith(".weight")
            for position in member.positions[channel]
        }
        assert found == expected
