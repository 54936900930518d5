from __future__ import annotations

import copy

import torch
from torch import nn

from search.evaluation.recalibrate import recalibrate


def network() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=0.3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Dropout(0.5), nn.ReLU()).eval()


def test_statistics_are_the_average_over_the_batches() -> None:
    net = network()
    batches = [torch.randn(8, 2, 6, 6) * (i + 1) for i in range(3)]
    recalibrate(net, batches)
    seen = [net[0](batch).detach() for batch in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(net[1].running_mean, mean)
    torch.testing.assert_close(net[1].running_var, variance)


def test_modes_and_momentum_are_restored_even_after_an_error() -> None:
    net = network()
    net[2].train()
    for batches in ([torch.randn(4, 2, 6, 6)], [torch.randn(4, 3, 6, 6)]):
        try:
            recalibrate(net, batches)
        except RuntimeError:
            assert batches[0].shape[1] == 3
        assert net[1].momentum == 0.3
        assert [module.training for module in net] == [False, False, True, False]


def test_networks_that_share_buffers_keep_theirs() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    twin = copy.deepcopy(net)
    for name, buffer in net[1].named_buffers():
        setattr(twin[1], name, buffer)
    recalibrate(twin, [torch.randn(4, 2, 6, 6)])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    old, new = before["1.running_mean"], twin.state_dict()["1.running_mean"]
    assert not torch.equal(old, new)


def test_nothing_changes_without_batches_or_without_batch_norm() -> None:
    for net, batches in (
        (network(), []),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), [torch.randn(4, 3)]),
        (nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), [torch.randn(4, 3)]),
    ):
        before = copy.deepcopy(net.state_dict())
        recalibrate(net, batches)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
