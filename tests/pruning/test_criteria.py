"""Criteria against sums written out by hand, and the choice of channels by them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from search.pruning import CRITERIA, apply, everything, scores, select
from search.space import ChannelGroup, Plan
from tests.networks import ZOO
from tests.pruning.cases import Case, case, plan_of, random_kept


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def group_of(subject: Case, tensor: str) -> ChannelGroup:
    return next(
        group
        for group in subject.space.groups
        if any((m.tensor, m.dim) == (tensor, 0) for m in group.members)
    )


def score(name: str, tensor: str, criterion: str) -> tuple[Tensor, dict[str, Tensor]]:
    subject = case(name)
    found = scores(subject.network, group_of(subject, tensor), criterion, seeded())
    return found, subject.original.state_dict()


def test_l1_of_one_producer_is_the_sum_of_its_filters_weights() -> None:
    found, s = score("vgg", "features.0.weight", "l1")
    expected = [sum(abs(x) for x in w.flatten().tolist()) for w in s["features.0.weight"]]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_l2_of_coupled_producers_is_one_norm_over_all() -> None:
    found, s = score("resnet20b", "layer2.0.conv2.weight", "l2")
    producers = [f"layer2.{i}.conv2.weight" for i in range(3)] + ["layer2.0.downsample.0.weight"]
    rows = torch.cat([s[name].flatten(1) for name in producers], 1)
    torch.testing.assert_close(found, torch.linalg.vector_norm(rows, dim=1))


def test_bn_scale_sums_the_coupled_scales() -> None:
    found, s = score("resnet20b", "layer2.0.conv2.weight", "bn_scale")
    scales = [f"layer2.{i}.bn2.weight" for i in range(3)] + ["layer2.0.downsample.1.weight"]
    torch.testing.assert_close(found, torch.stack([s[name].abs() for name in scales]).sum(0))


def test_bn_scale_without_batch_normalisation_is_l1() -> None:
    found, s = score("mlp", "5.weight", "bn_scale")
    torch.testing.assert_close(found, s["5.weight"].abs().sum(1))


def test_random_scores_come_from_the_generator_alone() -> None:
    subject = case("vgg")
    group = subject.space.groups[0]
    first = scores(subject.network, group, "random", seeded(1))
    torch.manual_seed(5)
    assert torch.equal(first, scores(subject.network, group, "random", seeded(1)))
    assert not torch.equal(first, scores(subject.network, group, "random", seeded(2)))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ZOO)
def test_every_channel_of_every_group_has_a_finite_score(name: str, criterion: str) -> None:
    subject = case(name)
    for group in subject.space.groups:
        found = scores(subject.network, group, criterion, seeded())
        assert found.shape == (group.channels,)
        assert found.isfinite().all()
        assert (found >= 0).all()


def test_an_unknown_criterion_is_refused() -> None:
    subject = case("mlp")
    with pytest.raises(ValueError, match="no criterion is called taylor: choose from l1, l2"):
        scores(subject.network, subject.space.groups[0], "taylor", seeded())


def half(subject: Case) -> Plan:
    return tuple(-(-group.channels // 2) for group in subject.space.groups)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_highest_scores_are_kept(criterion: str) -> None:
    subject = case("resnet20b")
    kept = select(subject.network, subject.space, half(subject), criterion, seeded(3))
    assert plan_of(kept) == half(subject)
    generator = seeded(3)
    for group, channels in zip(subject.space.groups, kept, strict=True):
        found = scores(subject.network, group, criterion, generator)
        gone = sorted(set(range(group.channels)).difference(channels))
        assert list(channels) == sorted(channels)
        assert found[list(channels)].min() >= found[gone].max()


def test_of_equal_scores_the_first_are_kept() -> None:
    subject = case("mlp")
    network = copy.deepcopy(subject.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    kept = select(network, subject.space, half(subject), "l1", seeded())
    assert kept == tuple(tuple(range(width)) for width in half(subject))


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale"])
def test_a_parent_is_narrowed_by_its_own_weights(criterion: str) -> None:
    """From the full network with `within` as from the network that was cut there."""
    subject = case("densenet")
    within = random_kept(subject.space, np.random.default_rng(4))
    plan = tuple(-(-len(channels) // 2) for channels in within)
    parent = apply(subject.network, subject.space, within)
    by_full = select(subject.network, subject.space, plan, "l1", seeded(), within)
    for inner, outer in zip(by_full, within, strict=True):
        assert set(inner) <= set(outer)
    # Producers' filters lose columns in the parent, so only its own weights can say.
    kept = select(parent, subject.space, plan, criterion, seeded(), within)
    for index, (inner, outer) in enumerate(zip(kept, within, strict=True)):
        assert set(inner) <= set(outer)
        first = next(m for m in subject.space.groups[index].members if m.role == "produces")
        if criterion == "l1" and "block" in first.tensor:
            rows = parent.get_parameter(first.tensor).detach().abs().flatten(1).sum(1)
            best = sorted(rows.argsort(descending=True)[: len(inner)].tolist())
            assert inner == tuple(outer[i] for i in best)


def test_plans_that_do_not_fit_are_refused_by_name() -> None:
    subject = case("mlp")
    full, name = everything(subject.space), subject.space.groups[0].name
    within = ((0, 1), *full[1:])
    with pytest.raises(ValueError, match=f"group {name} cannot keep 3 channels: 2 are available"):
        select(subject.network, subject.space, (3, 1), "l1", seeded(), within)
    with pytest.raises(ValueError, match="a plan for 1 groups"):
        select(subject.network, subject.space, (3,), "l1", seeded())
