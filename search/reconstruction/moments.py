"""Second moments of a layer's inputs, alone and with what its outputs should be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.reconstruction.correlation import crossed, products
from search.reconstruction.layers import Layer

_ELEMENTS = 1 << 24  # of unfolded inputs at once: 64 MiB


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over all rows, in float64. `g` groups of `d` features and `o` outputs.

    Attributes:
        rows: how many there were.
        mean: `(g, d)` E[x].
        square: `(g, d, d)` E[x x'].
        target_mean: `(g, o)` E[t]; empty without targets.
        cross: `(g, d, o)` E[x t'].
    """

    rows: int
    mean: Tensor
    square: Tensor
    target_mean: Tensor
    cross: Tensor

    def covariance(self) -> Tensor:
        """`(g, d, d)`."""
        return self.square - self.mean[:, :, None] * self.mean[:, None, :]

    def cross_covariance(self) -> Tensor:
        """`(g, d, o)`."""
        return self.cross - self.mean[:, :, None] * self.target_mean[:, None, :]


class Accumulator:
    """Sums over batches; products in float32 by chunks of examples, their sums in float64."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._rows = 0
        self._sums: list[Tensor] | None = None

    def add(self, x: Tensor, target: Tensor | None = None) -> None:
        """Take a batch.

        Args:
            x: the layer's input, see `Layer.inputs`.
            target: of the shape of the layer's output.
        """
        size = max(1, _ELEMENTS // max(1, _features(self._layer, x)))
        for at in range(0, len(x), size):
            part = slice(at, at + size)
            self._add(x[part], None if target is None else target[part])

    def _add(self, x: Tensor, target: Tensor | None) -> None:
        layer = self._layer
        ones = layer.inputs(x.sum(0, keepdim=True))  # a feature's sum over the examples, by place
        groups, places, features = ones.shape
        wanted, cross = x.new_zeros(groups, 0), x.new_zeros(groups, features, 0)
        if target is not None:
            wanted, cross = totals(layer, target), crossed(layer, x, target)
        sums = [ones.sum(1), products(layer, x), wanted, cross]
        if self._sums is None:
            self._sums = [part.double() for part in sums]
        else:
            for total, part in zip(self._sums, sums, strict=True):
                total += part
        self._rows += len(x) * places

    def moments(self) -> Moments:
        """The means so far.

        Raises:
            ValueError: no batch was taken.
        """
        if self._sums is None:
            raise ValueError("no batch was taken")
        return Moments(self._rows, *(total / self._rows for total in self._sums))


def totals(layer: Layer, target: Tensor) -> Tensor:
    """`(g, o)`: sums of the targets over all rows."""
    channel = layer.channel_dim % target.dim()
    others = [dim for dim in range(target.dim()) if dim != channel]
    return target.sum(others).view(layer.groups, -1)


def aimed_at(
    known: Moments, layer: Layer, inputs: Sequence[Tensor], targets: Iterable[Tensor]
) -> Moments:
    """Moments of the same inputs with other targets, by batch."""
    wanted, cross = torch.zeros_like(known.target_mean), torch.zeros_like(known.cross)
    for x, target in zip(inputs, targets, strict=True):
        wanted += totals(layer, target)
        cross += crossed(layer, x, target)
    return replace(known, target_mean=wanted / known.rows, cross=cross / known.rows)


def _features(layer: Layer, x: Tensor) -> int:
    """About how many elements one example unfolds to."""
    elements = x[0].numel()
    for size, stride in zip(layer.kernel, layer.stride, strict=True):
        elements = elements * size // stride
    return elements
