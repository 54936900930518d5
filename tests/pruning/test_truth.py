"""The test of truth: a pruned network computes what the dense one does with channels masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search.pruning import apply, everything
from search.space import Kept
from tests.networks import ZOO
from tests.pruning.cases import Case, case, masked_output, normalised, output, random_kept


def agree(subject: Case, kept: Kept) -> None:
    pruned = apply(subject.network, subject.space, kept)
    expected = masked_output(subject, kept)
    torch.testing.assert_close(
        output(pruned, subject.example),
        expected,
        rtol=1e-9,
        atol=1e-9 * float(expected.abs().max()),
    )


def maskable(subject: Case) -> list[int]:
    spanned = normalised(subject.space)
    return [index for index in range(len(subject.space.groups)) if index not in spanned]


@pytest.mark.parametrize("name", ZOO)
def test_each_group_alone(name: str) -> None:
    subject, generator = case(name), np.random.default_rng(0)
    groups = maskable(subject)
    assert groups, "the network has nothing to test"
    for group in groups:
        agree(subject, random_kept(subject.space, generator, [group]))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ZOO)
def test_all_groups_together(name: str, seed: int) -> None:
    subject = case(name)
    agree(subject, random_kept(subject.space, np.random.default_rng(seed + 1), maskable(subject)))


@pytest.mark.parametrize("name", ZOO)
def test_one_channel_of_each_group(name: str) -> None:
    """The narrowest network of all still computes the same as its mask."""
    subject = case(name)
    kept = list(everything(subject.space))
    for index in maskable(subject):
        kept[index] = (subject.space.groups[index].channels // 2,)
    agree(subject, tuple(kept))


@pytest.mark.parametrize("name", ["resnet20b", "vgg", "densenet", "shufflenet_v2", "vit_fused"])
def test_the_mask_matters(name: str) -> None:
    """Cutting other channels than the masked ones gives other outputs: the test can fail."""
    subject = case(name)
    kept = list(everything(subject.space))
    other = list(kept)
    for index in maskable(subject):
        channels = range(subject.space.groups[index].channels)
        kept[index], other[index] = tuple(channels[1:]), tuple(channels[:-1])
    expected = masked_output(subject, tuple(kept))
    found = output(apply(subject.network, subject.space, tuple(other)), subject.example)
    assert not torch.allclose(found, expected, rtol=1e-3)
