"""Small networks in the styles that users write: what each brings is in its name's comment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import randomise


class CausalSelfAttention(nn.Module):
    """Scores filled with minus infinity where a triangular buffer says so."""

    mask: Tensor

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).view(1, 1, length, -1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        parts = self.attn(x).split(c, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in parts)
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        y = self.drop(F.softmax(scores, dim=-1)) @ v
        return cast(Tensor, self.proj(y.transpose(1, 2).contiguous().view(b, t, c)))


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, False), nn.Linear(width, hidden, False)
        self.down = nn.Linear(hidden, width, False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(F.silu(self.gate(x)) * self.up(x)))


class Sequence(nn.Module):
    """A decoder: positions from sines, RMS normalisation, gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(5, 16)
        self.norm1, self.norm2 = nn.RMSNorm(16), nn.RMSNorm(16, eps=1e-6)
        self.attn, self.mlp = CausalSelfAttention(16, 4, 12), SwiGlu(16, 24)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        position = torch.arange(x.shape[1]).unsqueeze(1)
        angle = position * torch.exp(torch.arange(0, 16, 2) * (-math.log(10000.0) / 16))
        x = x + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return cast(Tensor, self.head(x[:, -1]))


class EinsumAttention(nn.Module):
    """Heads by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.to_q, self.to_kv = nn.Linear(12, 12, bias=False), nn.Linear(12, 24, bias=False)
        self.out, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).permute(0, 2, 1)
        k, v = self.to_kv(x).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (3, 4)).transpose(1, 2) for y in (self.to_q(x), k, v))
        weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.5).softmax(-1)
        y = torch.einsum("bhij,bhjd->bhid", weights, v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return cast(Tensor, self.head(x.mean(1)))


class Cbam(nn.Module):
    """Channel attention from mean and maximum, then spatial attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.SELU())
        self.mlp = nn.Sequential(nn.Conv2d(12, 4, 1), nn.CELU(0.7), nn.Conv2d(4, 12, 1))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)
        self.drop = nn.Dropout2d(0.2)
        self.tail = nn.Conv2d(12, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True))
        x = x * torch.sigmoid(pooled)
        energy = torch.cat([x.sum(1, keepdim=True), x.norm(dim=1, keepdim=True)], dim=1)
        x = self.drop(x * torch.sigmoid(self.spatial(energy)))
        y: Tensor = self.fc(F.softsign(self.tail(x)).mean(-1).mean(-1))
        return y


class Wave(nn.Module):
    """Gated dilated convolutions over a sequence, skips added up, with a scaled residual."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv1d(2, 8, 1)
        self.convs = nn.ModuleList(nn.Conv1d(8, 16, 3, padding=2**i, dilation=2**i) for i in (0, 1))
        self.skips = nn.ModuleList(nn.Conv1d(8, 10, 1) for _ in range(2))
        self.mixes = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2))
        self.norm, self.drop = nn.InstanceNorm1d(10, affine=True), nn.Dropout1d(0.1)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        total: Tensor | None = None
        for conv, skip, mix in zip(self.convs, self.skips, self.mixes, strict=True):
            y = F.glu(conv(x), dim=1)
            total = skip(y) if total is None else total + skip(y)
            x = torch.add(x, mix(y), alpha=0.5)
        assert total is not None
        total = self.drop(F.logsigmoid(self.norm(total)))
        return cast(Tensor, self.out(total.max(dim=-1).values))


class DropPath(nn.Module):
    """Stochastic depth: examples lose a branch while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


class Mixer(nn.Module):
    """Tokens and channels mixed in turn; stochastic depth; identity modules."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.tokens = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.channels = nn.Sequential(
            nn.Linear(12, 24), nn.GELU(), nn.Identity(), nn.Linear(24, 12)
        )
        self.path, self.head = DropPath(0.1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = x + self.path(self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        x = x + self.path(self.channels(self.norm2(x)))
        return cast(Tensor, self.head(x.mean(dim=1)))


class Pyramid(nn.Module):
    """Pools to several sizes, upsamples by factors, concatenates, two outputs' sum flipped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Hardswish())
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), nn.Conv2d(8, 6, 1), nn.ReLU6()) for n in (2, 4)
        )
        self.ups = nn.ModuleList(
            nn.Upsample(scale_factor=k, mode=m) for k, m in ((4, "nearest"), (2, "bilinear"))
        )
        self.fuse = nn.Conv2d(20, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = [x] + [up(f(x)) for f, up in zip(self.levels, self.ups, strict=True)]
        y = F.leaky_relu(self.fuse(torch.cat(found, 1)), 0.1)
        return cast(Tensor, self.head(y + torch.flip(y, dims=(-1,))))


class Embedder(nn.Module):
    """Unit vectors against prototypes, as in metric learning."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Softplus(), nn.Linear(16, 8))
        self.prototypes = nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.body(x), dim=1)
        return 10 * F.linear(x, F.normalize(self.prototypes, dim=1))


class Volume(nn.Module):
    """Three spatial dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.conv2, self.bn2 = nn.Conv3d(6, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.fc(torch.flatten(F.adaptive_avg_pool3d(x, 1), 1)))


class CrossLayers(nn.Module):
    """Rows of a table: crosses with the input, self-normalising layers, narrow and stack."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(9, 9) for _ in range(2))
        self.deep = nn.Sequential(nn.Linear(9, 16), nn.SELU(), nn.AlphaDropout(0.1))
        self.gate = nn.Linear(16, 16)
        self.out = nn.Linear(9 + 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.cross:
            y = x * layer(y) + y
        z = self.deep(x)
        first, second = z.narrow(1, 0, 8), z.narrow(1, 8, 8)
        z = torch.stack([torch.tanh(first), torch.expm1(-second.abs())], dim=1).flatten(1)
        return cast(Tensor, self.out(torch.cat([y, F.hardshrink(self.gate(z), 0.1)], dim=1)))


class BatchRenorm(nn.Module):
    """Standardised by hand over the space of each channel, with shared scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5) * self.scale
        x = F.softshrink(F.threshold(x, -0.5, 0.0), 0.1)
        return cast(Tensor, self.head(torch.log1p(x.abs()).sum(dim=(-2, -1))))


USERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "decoder": (Sequence, (12, 5), True),
    "einsum attention": (EinsumAttention, (3, 12, 12), False),
    "channel and spatial attention": (Cbam, (3, 9, 9), False),
    "gated convolutions": (Wave, (2, 20), False),
    "mixer": (Mixer, (3, 16, 16), True),
    "pyramid": (Pyramid, (1, 8, 8), False),
    "unit vectors": (Embedder, (2, 3, 4), False),
    "volume": (Volume, (1, 4, 6, 4), False),
    "table": (CrossLayers, (9,), False),
    "by hand": (BatchRenorm, (3, 8, 8), False),
}
"""By name: the network's class, the shape of an example, whether a normalisation spans channels."""


def user(name: str) -> tuple[nn.Module, Tensor]:
    """A network with seeded weights in eval mode, and two examples."""
    make, shape, _ = USERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(make(), gain=1.0)
        return network, torch.randn(2, *shape)
