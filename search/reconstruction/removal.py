"""In which order a group's channels go: optimal brain surgeon, a channel at a time.

For a layer with weights `W` and inputs of second moment `H`, removing the features `b` of a channel
and solving for the weights that are left costs

    e_b = tr(W_b ([H^-1]_bb)^-1 W_b')                    in output variance, and leaves
    W  <- W - W_b ([H^-1]_bb)^-1 [H^-1]_b,
    H^-1 <- H^-1 - [H^-1]_:b ([H^-1]_bb)^-1 [H^-1]_b:

The channel that costs least goes first; then all others are judged anew. A group that several
layers read sums their costs, each as a share of that layer's output variance.

Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992;
for whole structures Kurtic et al., "ZipLM", NeurIPS 2023, arXiv:2302.04089, section 3.

Deviations from ZipLM:

1. `H` is the covariance where a constant can make good a mean (`Layer.carries_constant`).
2. Of more than 128 channels, a 64th goes at once; their joint cost counts.
3. Nothing is swapped back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.reconstruction.layers import Layer
from search.reconstruction.moments import Moments
from search.reconstruction.solve import damped, ridge_for

_AT_ONCE = 64  # a share of the channels, and no more, goes between two judgements
_COMPACT = 0.75  # the features that are gone are dropped when fewer than this share is left


@dataclass(frozen=True, slots=True)
class Removal:
    """What a group loses, channel by channel.

    Attributes:
        order: all channels, the first to go first; the last one stays.
        errors: `errors[i]` is the error after `i` channels went, `(channels,)`: 0 at first, a sum
            over the layers of shares of their output variances.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads a group.

    Attributes:
        moments: of its inputs.
        weight: `(c_out, c_in / g, *kernel)`.
        positions: for each channel of the group, its indices along the weight's second dimension.
    """

    layer: Layer
    moments: Moments
    weight: Tensor
    positions: tuple[tuple[int, ...], ...]


def removal(readers: Sequence[Reader], ridge: float) -> Removal | None:
    """The order in which a group's channels go.

    Args:
        readers: all layers that read the group; at least one.
        ridge: see `solve.regress`.
    Returns:
        `None` if the moments are not finite.
    """
    states = [_State(reader, ridge) for reader in readers]
    count = len(readers[0].positions)
    left = list(range(count))
    order: list[int] = []
    errors = [0.0]
    while len(left) > 1:
        each = torch.stack([state.costs() for state in states]).sum(0)
        if not torch.isfinite(each).all():
            return None
        size = min(max(1, len(left) // _AT_ONCE), len(left) - 1)
        places = torch.sort(each, stable=True).indices[:size].tolist()
        joint = sum(state.remove(places) for state in states)
        # Within a batch the joint cost is spread as the single ones are.
        shares = each[places].cumsum(0)
        steps = shares / shares[-1] if shares[-1] > 0 else shares * 0 + 1
        errors += [errors[-1] + joint * step for step in steps.tolist()]
        order += [left[place] for place in places]
        gone = set(places)
        left = [channel for place, channel in enumerate(left) if place not in gone]
    return Removal((*order, *left), tuple(errors))


class _State:
    """One layer while channels go; places count the channels that are left."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        layer, moments = reader.layer, reader.moments
        gram = moments.covariance() if layer.carries_constant else moments.square
        self._weights = layer.matrix(reader.weight).double()  # (g, o, d)
        features, inputs = gram.shape[-1], reader.weight.shape[1]
        variance = ((self._weights @ gram) * self._weights).sum()
        self._scale = 1 / variance if variance > 0 else variance * 0
        ridge = ridge_for(ridge, features, moments.rows)
        self._inverse = torch.linalg.inv(damped(gram, ridge))  # (g, d, d)
        kernel = torch.arange(features // inputs)[None, :, None] * inputs
        positions = torch.tensor(reader.positions)[:, None, :]
        blocks = (positions + kernel).flatten(1).to(gram.device)  # (channels, k)
        self._blocks = blocks
        self._present = torch.ones(features, dtype=torch.bool, device=gram.device)

    def costs(self) -> Tensor:
        """`(channels left,)`: what it costs that each goes alone."""
        blocks = self._blocks
        inner = self._inverse[:, blocks[:, :, None], blocks[:, None, :]]  # (g, n, k, k)
        weights = self._weights[:, :, blocks].permute(0, 2, 3, 1)  # (g, n, k, o)
        cost = (weights * torch.linalg.solve(inner, weights)).sum((0, 2, 3))
        scaled: Tensor = (cost * self._scale).clamp_min(0).cpu()
        return scaled

    def remove(self, places: Sequence[int]) -> float:
        """Take channels away; what they cost together."""
        gone = torch.zeros(len(self._blocks), dtype=torch.bool, device=self._blocks.device)
        gone[list(places)] = True
        at = self._blocks[gone].flatten()
        columns = self._inverse[:, :, at]
        weights = self._weights[:, :, at].mT  # (g, b, o)
        factor = torch.linalg.solve(columns[:, at], torch.cat([weights, columns.mT], 2))
        outputs = weights.shape[-1]
        cost = (weights * factor[..., :outputs]).sum() * self._scale
        self._weights = self._weights - weights.mT @ factor[..., outputs:]
        self._inverse = self._inverse - columns @ factor[..., outputs:]
        self._blocks = self._blocks[~gone]
        self._present[at] = False
        if self._present.sum() < _COMPACT * len(self._present):
            self._compact()
        return max(0.0, float(cost))

    def _compact(self) -> None:
        """Drop the features that are gone; those that the group does not own are never."""
        keep = self._present
        self._inverse = self._inverse[:, keep][:, :, keep]
        self._weights = self._weights[:, :, keep]
        self._blocks = (keep.cumsum(0) - 1)[self._blocks]
        self._present = keep[keep]
