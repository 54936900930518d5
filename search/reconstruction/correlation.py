"""Products of a convolution's inputs without unfolding them.

The matrix of E[x x'] over all patches is wanted. Unfolded, each value is in as many rows as the
kernel has positions, and the product of two values that lie apart by some offset is made for each
pair of kernel positions that lie apart so. Summed over *all* patches that touch the input, those
are the same: the input's correlation with itself at that offset, which is the gradient of the
weight of a convolution with a kernel of `2 k - 1` where inputs and gradients are both the input
(kernels of libraries are fast for that). The patches that touch the input but that the layer does
not have lie on a narrow edge, and are taken off again.

For 3 x 3 kernels this takes a third to an eighth of the time (`benchmarks.kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search.reconstruction.layers import Layer

_FEW = 16  # places, up to which unfolding is faster


def products(layer: Layer, x: Tensor) -> Tensor:
    """Sum over all rows of `Layer.inputs(x)` of the products of each two features.

    Args:
        x: `(n, c_in, *spatial)`, or `(..., features)` for a linear map.
    Returns:
        `(g, d, d)`.
    """
    if len(layer.kernel) == 2 and max(layer.kernel) == 1 and not any(layer.padding):
        x = x[:, :, :: layer.stride[0], :: layer.stride[1]]
    elif not _can_correlate(layer, x):
        rows = layer.inputs(x)
        return rows.mT @ rows
    result = _spread(layer, _correlation(layer, x))
    for features, rows in _beyond(layer, x):
        result[:, features[:, None], features] -= rows.mT @ rows
    return result


def crossed(layer: Layer, x: Tensor, target: Tensor) -> Tensor:
    """Sum over all rows of the products of each feature with each target: a weight's gradient.

    Args:
        x: see `products`.
        target: of the shape of the layer's output.
    Returns:
        `(g, d, o)`.
    """
    if not layer.kernel:
        rows, wanted = layer.inputs(x), target.reshape(1, -1, target.shape[-1])
        return rows.mT @ wanted
    shape = (target.shape[1], x.shape[1] // layer.groups, *layer.kernel)
    found = _gradient(x, target, shape, layer.stride, layer.padding, layer.dilation, layer.groups)
    return layer.matrix(found).mT


def _can_correlate(layer: Layer, x: Tensor) -> bool:
    """Whether it can, and there are enough patches inside to make it worth the while."""
    reach = _reach(layer)
    return (
        len(layer.kernel) == 2
        and set(layer.stride) == {1}
        and all(pad <= far for pad, far in zip(layer.padding, reach, strict=True))
        and all(far < size for far, size in zip(reach, x.shape[2:], strict=True))
        and x.shape[2] * x.shape[3] > _FEW
    )


def _reach(layer: Layer) -> list[int]:
    """How far apart the first and the last value of a patch are, by dimension."""
    return [gap * (size - 1) for size, gap in zip(layer.kernel, layer.dilation, strict=True)]


def _correlation(layer: Layer, x: Tensor) -> Tensor:
    """`(channels, channels / g, 2 k - 1, ...)`: sums of `x[o, q] * x[i, q + offset]`."""
    sizes = [2 * size - 1 for size in layer.kernel]
    shape = (x.shape[1], x.shape[1] // layer.groups, *sizes)
    return _gradient(x, x, shape, (1, 1), _reach(layer), layer.dilation, layer.groups)


def _spread(layer: Layer, correlation: Tensor) -> Tensor:
    """`(g, d, d)` with each pair of kernel positions at its offset, as if for all patches."""
    channels = correlation.shape[1]
    places = [torch.arange(size, device=correlation.device) for size in layer.kernel]
    down, across = (place - place[:, None] + len(place) - 1 for place in places)
    by_group = correlation.reshape(layer.groups, channels, channels, *correlation.shape[2:])
    # (g, o, i, a, b, a', b') -> (g, a, b, o, a', b', i)
    pairs = by_group[..., down[:, None, :, None], across[None, :, None, :]]
    positions = layer.kernel[0] * layer.kernel[1] * channels
    return pairs.permute(0, 3, 4, 1, 5, 6, 2).reshape(layer.groups, positions, positions)


def _beyond(layer: Layer, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches that touch the input but are not the layer's, by the features that are not 0 there.

    Yields:
        Features `(f,)`, and rows `(g, patches, f)` of them.
    """
    channels = x.shape[1] // layer.groups
    values = x.reshape(len(x), layer.groups, channels, *x.shape[2:]).movedim(1, 0)
    (k_down, k_across), (pad_down, pad_across) = layer.kernel, layer.padding
    (gap_down, gap_across), (_, reach_across) = layer.dilation, _reach(layer)
    number = torch.arange(k_down * k_across * channels, device=x.device)
    number = number.reshape(k_down, k_across, channels)
    for at in _outside(layer, x.shape[2], 0):  # above and below, corners included
        kernel, rows = _touched(at, k_down, gap_down, pad_down, x.shape[2])
        found = _patches(values[:, :, :, rows], k_across, gap_across, reach_across)
        yield number[kernel].flatten(), found  # (rows, across, channels)
    turned = values.mT
    for at in _outside(layer, x.shape[3], 1):  # left and right, of the layer's own rows
        kernel, columns = _touched(at, k_across, gap_across, pad_across, x.shape[3])
        found = _patches(turned[:, :, :, columns], k_down, gap_down, pad_down)
        yield number[:, kernel].movedim(1, 0).flatten(), found


def _outside(layer: Layer, size: int, dim: int) -> list[int]:
    """Places of patches, by their first value's place plus the padding, that the layer lacks."""
    reach, pad = _reach(layer)[dim], layer.padding[dim]
    places = size + 2 * pad - reach
    more = reach - pad
    return [*range(-more, 0), *range(places, places + more)]


def _touched(at: int, size: int, gap: int, pad: int, limit: int) -> tuple[list[int], list[int]]:
    """Which of a patch's values in one dimension lie in the input, and where."""
    places = [(i, at + i * gap - pad) for i in range(size)]
    inside = [(i, place) for i, place in places if 0 <= place < limit]
    return [i for i, _ in inside], [place for _, place in inside]


def _patches(lines: Tensor, size: int, gap: int, pad: int) -> Tensor:
    """Unfold lines: `(g, n, c, l, length)` to `(g, n * places, l * size * c)`."""
    lines = functional.pad(lines, (pad, pad)).unfold(-1, (size - 1) * gap + 1, 1)[..., ::gap]
    groups, n, channels, count, places, _ = lines.shape
    return lines.permute(0, 1, 4, 3, 5, 2).reshape(groups, n * places, count * size * channels)


def _gradient(
    x: Tensor,
    target: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The gradient of a convolution's weight of that shape, where the output's is `target`."""
    # TF32 has ten bits, too few for what is subtracted later; and sums are to come out the same.
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        _, found, _ = torch.ops.aten.convolution_backward(
            target,
            x,
            x.new_empty(1).expand(shape),
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            [False, True, False],
        )
    gradient: Tensor = found
    return gradient
