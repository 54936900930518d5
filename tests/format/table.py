"""One network that uses every operator and every module of the format's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import randomise

Function = Callable[[Tensor], Tensor]


def _positive(x: Tensor) -> Tensor:
    return x.abs() + 1


def _flat(function: Function) -> Function:
    """The function on a sequence instead of an image."""
    return lambda x: function(x.flatten(2))


def _deep(function: Function) -> Function:
    """The function on a volume instead of an image."""
    return lambda x: function(torch.stack([x, x * 2, x * 3], 2))


def _attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x * 2, x)


ACTIVATIONS: Mapping[str, Function] = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "silu", "mish", "hardswish", "selu")},
    **{name: getattr(F, name) for name in ("hardsigmoid", "hardtanh", "gelu", "softplus", "celu")},
    **{name: getattr(F, name) for name in ("elu", "leaky_relu", "hardshrink", "softshrink")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "exp", "abs", "neg", "erf")},
    **{name: getattr(torch, name) for name in ("square", "sin", "cos", "expm1")},
}


def _activations(x: Tensor) -> Tensor:
    return torch.stack([function(x).tanh() for function in ACTIVATIONS.values()]).sum(0)


FUNCTIONS: Mapping[str, Function] = {
    "activations": _activations,
    "logsigmoid": F.logsigmoid,
    "sqrt": lambda x: _positive(x).sqrt(),
    "rsqrt": lambda x: _positive(x).rsqrt(),
    "log": lambda x: _positive(x).log(),
    "log1p": lambda x: x.abs().log1p(),
    "reciprocal": lambda x: _positive(x).reciprocal(),
    "threshold": lambda x: F.threshold(x, 0.1, -2.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last),
    "arithmetic": lambda x: (2 - x * 3 + x) / _positive(x) ** 2,
    "sub": lambda x: x - torch.add(x.tanh(), x.exp(), alpha=0.5),
    "extremes": lambda x: torch.maximum(x.tanh(), torch.minimum(x * 2, x * 0.5)),
    "dropout": lambda x: F.dropout(x, 0.1, training=False),
    "feature_dropout": lambda x: F.dropout2d(x, 0.1, training=False),
    "masked_fill": lambda x: x.masked_fill(torch.ones(6, 8).triu(1) == 1, -3.0),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "matmul": lambda x: x @ x.mT,
    "attention": _attention,
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "max_pool1d": _flat(lambda x: F.max_pool1d(x, 3, 2)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool3d": _deep(lambda x: F.max_pool3d(x, 2)),
    "avg_pool1d": _flat(lambda x: F.avg_pool1d(x, 3, 2)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": _deep(lambda x: F.avg_pool3d(x, 2)),
    "adaptive_avg_pool1d": _flat(lambda x: F.adaptive_avg_pool1d(x, 4)),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_avg_pool3d": _deep(lambda x: F.adaptive_avg_pool3d(x, 1)),
    "adaptive_max_pool1d": _flat(lambda x: F.adaptive_max_pool1d(x, 1)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum(1),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.min(-1).values,
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std(-1),
    "norm": lambda x: x.norm(dim=1),
    "normalize": lambda x: F.normalize(x, p=3.0, dim=1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 3, -1),
    "cat": lambda x: torch.cat([x, x.tanh()], 1),
    "slice": lambda x: x[:, :, 1:3],
    "select": lambda x: x[:, :, 2],
    "pad": lambda x: F.pad(x, (1, 0, 2, 1)),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "flip": lambda x: x.flip(1, 3),
    "pixel_shuffle": lambda x: F.pixel_shuffle(F.pad(x, (0, 0, 0, 0, 0, 4)), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0),
    "glu": lambda x: F.glu(x, 1),
    "moments": lambda x: torch.cat(torch.var_mean(x, (2, 3)), 1),
    "einsum": lambda x: torch.einsum("bchw,bcvw->bchv", x, x.tanh()),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "tile": lambda x: x.tile(1, 2, 1, 1),
}
"""By name: what is done to an image `(n, 4, 6, 8)`; together they use every operator."""


class Everything(nn.Module):
    """Each function on the output of a convolution of its own, and each module once."""

    def __init__(self) -> None:
        super().__init__()
        image = torch.zeros(2, 4, 6, 8)
        self.convs = nn.ModuleList(nn.Conv2d(2, 4, 1) for _ in FUNCTIONS)
        features = [function(image).flatten(1).shape[1] for function in FUNCTIONS.values()]
        self.heads = nn.ModuleList(nn.Linear(count, 2) for count in features)
        self.images = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(4), nn.Dropout2d(0.1),
            nn.ConvTranspose2d(4, 6, 2, 2), nn.InstanceNorm2d(6, affine=True),
            nn.GroupNorm(6, 6), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.sequences = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Dropout1d(0.1),
            nn.AlphaDropout(0.1), nn.ConvTranspose1d(4, 6, 2, 2), nn.InstanceNorm1d(6),
            nn.AdaptiveAvgPool1d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.volumes = nn.Sequential(
            nn.Conv3d(2, 4, 1), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten()
        )
        self.rows = nn.Sequential(nn.LayerNorm(96), nn.RMSNorm(96), nn.Linear(96, 4), nn.Tanh())
        self.scale = nn.Parameter(torch.ones(4, 26))
        self.last = nn.ModuleList(nn.Linear(count, 2) for count in (6, 12, 4, 4))
        self.words = nn.Embedding(3, 4)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        total = F.linear(self.words(index), self.scale[:2, :4])
        steps = zip(self.convs, FUNCTIONS.values(), self.heads, strict=True)
        for conv, function, head in steps:
            total = total + head(function(conv(x)).flatten(1)).tanh()
        parts = (
            self.images(x),
            self.sequences(x.flatten(2)),
            self.volumes(x[:, :, None]),
            self.rows(x.flatten(1)),
        )
        for part, head in zip(parts, self.last, strict=True):
            total = total + head(part)
        return total


def everything() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network with seeded weights, in eval mode, and two examples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(Everything())
        return network, (torch.randn(2, 2, 6, 8), torch.tensor([0, 2]))
