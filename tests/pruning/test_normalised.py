"""Channels that a normalisation spans, against narrow networks written by hand.

Masking is no reference there: the channels that stay are normalised with those that go.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search.pruning import apply
from search.space import Kept
from tests.networks import ConvNext
from tests.pruning.cases import Case, case, output, random_kept

State = dict[str, Tensor]


def rows_of(subject: Case, kept: Kept, tensor: str) -> Tensor:
    """Which rows of a tensor a cut leaves, from the members alone; all if none is cut."""
    gone: set[int] = set()
    for group, channels in zip(subject.space.groups, kept, strict=True):
        for member in group.members:
            if (member.tensor, member.dim) == (tensor, 0):
                for channel in set(range(group.channels)).difference(channels):
                    gone.update(member.positions[channel])
    length = subject.space.graph.stored[tensor].shape[0]
    return torch.tensor([index for index in range(length) if index not in gone])


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """As Wu & He 2018, arXiv:1803.08494, figure 3, spelled out."""
    n, c, h, w = x.shape
    x = x.reshape(n, groups, -1)
    x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x.reshape(n, c, h, w) * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("seed", range(3))
def test_group_norm(seed: int) -> None:
    subject = case("group_norm")
    kept = random_kept(subject.space, np.random.default_rng(seed))
    s = subject.original.state_dict()
    residual = rows_of(subject, kept, "conv1.weight")
    last = rows_of(subject, kept, "conv3.weight")
    assert len(residual) < 16
    assert len(last) < 24
    norms = len(residual) // 4  # channels that are normalised together go together
    assert len(set((residual // 4).tolist())) == norms
    x = F.conv2d(subject.example, s["conv1.weight"][residual], padding=1)
    x = F.relu(group_norm(x, s["norm1.weight"][residual], s["norm1.bias"][residual], norms))
    y = F.conv2d(x, s["conv2.weight"][residual][:, residual], padding=1)
    x = F.relu(x + group_norm(y, s["norm2.weight"][residual], s["norm2.bias"][residual], norms))
    x = F.conv2d(x, s["conv3.weight"][last][:, residual], stride=2, padding=1)
    x = F.relu(group_norm(x, s["norm3.weight"][last], s["norm3.bias"][last], 1))
    expected = F.linear(x.mean((2, 3)), s["fc.weight"][:, last], s["fc.bias"])
    found = output(apply(subject.network, subject.space, kept), subject.example)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def layer_norm(x: Tensor, s: State, name: str, kept: Tensor, eps: float = 1e-5) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * s[f"{name}.weight"][kept] + s[f"{name}.bias"][kept]


def embedding(subject: Case, tensor: str) -> int:
    """The group that cuts a tensor's rows."""
    return next(
        index
        for index, group in enumerate(subject.space.groups)
        if any((m.tensor, m.dim) == (tensor, 0) for m in group.members)
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["vit_fused", "vit_multihead"])
def test_embedding_of_a_vision_transformer(name: str, seed: int) -> None:
    subject = case(name)
    cut = embedding(subject, "patches.weight")
    kept = random_kept(subject.space, np.random.default_rng(seed), [cut])
    e = rows_of(subject, kept, "patches.weight")
    assert len(e) < 24
    s = subject.original.state_dict()
    qkv, proj = (
        ("attn.qkv.weight", "attn.proj")
        if name == "vit_fused"
        else ("attn.in_proj_weight", "attn.out_proj")
    )
    x = F.conv2d(subject.example, s["patches.weight"][e], s["patches.bias"][e], stride=4)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([s["token"][..., e].expand(2, -1, -1), x], 1) + s["positions"][..., e]
    for layer in ("layers.0.", "layers.1."):
        y = layer_norm(x, s, layer + "norm1", e)
        y = F.linear(y, s[layer + qkv][:, e], s[layer + qkv.replace("weight", "bias")])
        # Three of 24 (queries, keys, values), each three heads of eight.
        q, k, v = y.view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(2, 17, 24)
        x = x + F.linear(y, s[f"{layer}{proj}.weight"][e], s[f"{layer}{proj}.bias"][e])
        y = layer_norm(x, s, layer + "norm2", e)
        y = F.gelu(F.linear(y, s[layer + "fc1.weight"][:, e], s[layer + "fc1.bias"]))
        x = x + F.linear(y, s[layer + "fc2.weight"][e], s[layer + "fc2.bias"][e])
    x = layer_norm(x, s, "norm", e)[:, 0]
    expected = F.linear(x, s["head.weight"][:, e], s["head.bias"])
    found = output(apply(subject.network, subject.space, kept), subject.example)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def convnext_block(x: Tensor, s: State, name: str, e: Tensor) -> Tensor:
    width = len(e)
    y = F.conv2d(
        x, s[f"{name}.dwconv.weight"][e], s[f"{name}.dwconv.bias"][e], padding=3, groups=width
    )
    y = layer_norm(y.permute(0, 2, 3, 1), s, f"{name}.norm", e, 1e-6)
    y = F.gelu(F.linear(y, s[f"{name}.pwconv1.weight"][:, e], s[f"{name}.pwconv1.bias"]))
    y = F.linear(y, s[f"{name}.pwconv2.weight"][e], s[f"{name}.pwconv2.bias"][e])
    return x + (s[f"{name}.gamma"][e] * y).permute(0, 3, 1, 2)


@pytest.mark.parametrize("seed", range(2))
def test_stage_of_a_convnext(seed: int) -> None:
    subject = case("convnext")
    cut = embedding(subject, "down.weight")
    kept = random_kept(subject.space, np.random.default_rng(seed), [cut])
    e = rows_of(subject, kept, "down.weight")
    assert len(e) < 16
    s = subject.original.state_dict()
    original = subject.original
    assert isinstance(original, ConvNext)
    with torch.no_grad():
        x = original.stage1(original.norm0(original.stem(subject.example)))
    x = F.conv2d(x, s["down.weight"][e], s["down.bias"][e], stride=2)
    x = convnext_block(x, s, "stage2", e)
    x = layer_norm(x.mean((2, 3)), s, "norm", e)
    expected = F.linear(x, s["head.weight"][:, e], s["head.bias"])
    found = output(apply(subject.network, subject.space, kept), subject.example)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
