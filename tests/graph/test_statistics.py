"""Statistics over channels, spelled out: after a cut they are those of the channels left.

As for layer normalisation, masking is no reference: the reference is a narrow network by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espalier.format.build import build
from espalier.format.lift import lift
from search.graph import shrink, space_of
from tests.graph.masking import sliced


class Normalised(nn.Module):
    """A convolution, a normalisation over its channels, and another convolution."""

    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.normalise(self.first(x)) * self.scale)
        return y


def spelled_out(x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def by_variance(x: Tensor) -> Tensor:
    return (x - x.mean(1, True)) * torch.rsqrt(x.var(1, unbiased=False, keepdim=True) + 1e-5)


def root_mean_square(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-5).movedim(-1, 1)


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-5).movedim(-1, 1)


@pytest.mark.parametrize(
    ("normalise", "reference"),
    [(spelled_out, layer_norm), (by_variance, layer_norm), (root_mean_square, rms_norm)],
)
def test_what_is_left_is_normalised_by_itself(
    normalise: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    network, x = Normalised(normalise).eval(), torch.randn(2, 3, 4, 4)
    graph, tensors = lift(network, x)
    space = space_of(graph)
    (group,) = space.groups
    assert (group.name, group.channels) == ("first", 8)
    left = (0, 3, 4, 7)
    found = build(shrink(space, (left,)), sliced(space, (left,), tensors))(x)
    rows = list(left)
    y = F.conv2d(x, network.first.weight[rows], network.first.bias[rows])  # type: ignore[index]  # it has one
    y = reference(y) * network.scale[rows]
    expected = F.conv2d(y, network.last.weight[:, rows], network.last.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_unbiased_deviation_keeps_its_channels() -> None:
    """Of a single channel it would be undefined."""
    graph, _ = lift(Normalised(lambda x: x / x.std(1, keepdim=True)), torch.randn(2, 3, 4, 4))
    space = space_of(graph)
    assert space.groups == ()
    assert "reduces over them" in next(e.reason for e in space.excluded if e.name == "first")
