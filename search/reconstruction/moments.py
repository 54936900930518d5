"""Second moments of a layer's inputs, alone and with what its outputs should be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
    """Sums over batches; products in float32 by chunks of rows, their sums in float64.

    Args:
        squares: whether E[x x'] is wanted; else it is left at 0, which takes much less time.
    """

    def __init__(self, layer: Layer, *, squares: bool = True) -> None:
        self._layer = layer
        self._squares = squares
        self._rows = 0
        self._sums: list[Tensor] | None = None

    def add(self, x: Tensor, target: Tensor | None = None) -> None:
        """Take a batch.

        Args:
            x: the layer's input, see `Layer.inputs`.
            target: of the shape of the layer's output.
        """
        per_example = max(1, _features(self._layer, x))
        size = max(1, _ELEMENTS // per_example)
        for at in range(0, len(x), size):
            part = slice(at, at + size)
            self._add(self._layer.inputs(x[part]), None if target is None else target[part])

    def _add(self, rows: Tensor, target: Tensor | None) -> None:
        groups, count, _ = rows.shape
        wanted = rows.new_zeros(groups, count, 0)
        if target is not None:
            wanted = self._layer.outputs(target)
        turned = rows.mT
        square = turned @ rows if self._squares else rows.new_zeros(1)
        sums = [rows.sum(1), square, wanted.sum(1), turned @ wanted]
        if self._sums is None:
            self._sums = [part.double() for part in sums]
        else:
            for total, part in zip(self._sums, sums, strict=True):
                total += part
        self._rows += count

    def moments(self) -> Moments:
        """The means so far.

        Raises:
            ValueError: no batch was taken.
        """
        if self._sums is None:
            raise ValueError("no batch was taken")
        return Moments(self._rows, *(total / self._rows for total in self._sums))


def _features(layer: Layer, x: Tensor) -> int:
    """About how many elements one example unfolds to."""
    elements = x[0].numel()
    for size, stride in zip(layer.kernel, layer.stride, strict=True):
        elements = elements * size // stride
    return elements
