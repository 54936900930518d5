"""Products without unfolding, against the products of the unfolded rows."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from search.reconstruction.correlation import crossed, products
from search.reconstruction.layers import Layer


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Layer, Tensor, Tensor]:
    """A layer with inputs and targets, of any geometry; most often that of a usual convolution."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    kernel = draw(pairs(1, 4))
    dilation = draw(pairs(1, 3))
    reach = [(size - 1) * gap for size, gap in zip(kernel, dilation, strict=True)]
    padding = (draw(st.integers(0, reach[0] + 1)), draw(st.integers(0, reach[1] + 1)))
    size = [
        draw(st.integers(least := max(1, far + 1 - 2 * pad), max(9, least)))
        for far, pad in zip(reach, padding, strict=True)
    ]
    stride = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 1), (2, 2)]))
    groups, channels, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    layer = Layer(
        node="layer",
        source="source",
        weight="layer.weight",
        bias=None,
        norm=None,
        residual=None,
        groups=groups,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    x = torch.randn(draw(st.integers(1, 3)), groups * channels, *size, generator=generator)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(groups * outputs, channels, *kernel)
    y = layer.apply(x, weight, weight.new_zeros(len(weight)))
    return layer, x, torch.randn(y.shape, generator=generator)


@settings(deadline=None)  # the first call makes the kernels ready
@given(convolutions())
def test_products_are_those_of_unfolded_patches(case: tuple[Layer, Tensor, Tensor]) -> None:
    layer, x, target = case
    rows = layer.inputs(x).double()
    torch.testing.assert_close(products(layer, x).double(), rows.mT @ rows, rtol=1e-4, atol=1e-4)
    wanted = target.reshape(*target.shape[:1], layer.groups, -1, *target.shape[2:])
    wanted = wanted.movedim(2, -1).movedim(1, 0).flatten(1, 3).double()
    torch.testing.assert_close(
        crossed(layer, x, target).double(), rows.mT @ wanted, rtol=1e-4, atol=1e-4
    )


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_a_linear_map_of_tokens(tokens: int, features: int, outputs: int) -> None:
    layer = Layer("layer", "source", "layer.weight", None, None, None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, tokens, features, generator=generator)
    target = torch.randn(3, tokens, outputs, generator=generator)
    rows, wanted = x.reshape(-1, features), target.reshape(-1, outputs)
    torch.testing.assert_close(products(layer, x), (rows.mT @ rows)[None])
    torch.testing.assert_close(crossed(layer, x, target), (rows.mT @ wanted)[None])
