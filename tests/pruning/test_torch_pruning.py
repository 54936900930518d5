"""Torch-Pruning 1.6.1 as an oracle, on the kinds of networks that it prunes rightly."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.pruning import apply
from search.space import Kept
from tests.pruning.cases import Case, case, output, random_kept

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp


def pruned_by_oracle(subject: Case, kept: Kept) -> Tensor:
    """Output after Torch-Pruning has cut the rows of each group's first producer."""
    network = copy.deepcopy(subject.original)
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # its tracing follows gradients
    for group, channels in zip(subject.space.groups, kept, strict=True):
        gone = set(range(group.channels)).difference(channels)
        if not gone:
            continue
        first = next(m for m in group.members if m.role == "produces" and m.dim == 0)
        rows = sorted(position for channel in gone for position in first.positions[channel])
        module = network.get_submodule(first.tensor.rpartition(".")[0])
        prune = (
            tp.prune_linear_out_channels
            if isinstance(module, nn.Linear)
            else tp.prune_conv_out_channels
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(network, subject.example)
        graph.get_pruning_group(module, prune, idxs=rows).prune()
    return output(network, subject.example)


@pytest.mark.parametrize("name", ["resnet20b", "resnet18", "mobilenet_v2_bn", "densenet", "mlp"])
def test_the_same_cut_gives_the_same_outputs(name: str) -> None:
    subject = case(name)
    kept = random_kept(subject.space, np.random.default_rng(2))
    found = output(apply(subject.network, subject.space, kept), subject.example)
    expected = pruned_by_oracle(subject, kept)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
