"""Networks of the zoo that are made of linear layers and attention, and ConvNeXt."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(48, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(32, 16),
        nn.GELU(),
        nn.Linear(16, 4),
    )


class FusedAttention(nn.Module):
    """Queries, keys and values from one linear map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        z: Tensor = self.drop(self.proj(y))
        return z


class SpelledOutAttention(nn.Module):
    """Attention by matrix products and a softmax, keys and values from separate maps."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        kv = self.kv(x).view(b, n, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        k, v = kv[0], kv[1]
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        y: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return y


class Encoder(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), attention
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if isinstance(self.attn, nn.MultiheadAttention):
            y, _ = self.attn(y, y, y, need_weights=False)
        else:
            y = self.attn(y)
        x = x + y
        z: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return z


class Vit(nn.Module):
    """Patches, a class token, positions, two encoder layers."""

    def __init__(self, attention: Callable[[int, int], nn.Module], width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 17, width))
        self.layers = nn.Sequential(*(Encoder(width, attention(width, 3)) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        y: Tensor = self.head(self.norm(self.layers(x))[:, 0])
        return y


def multihead(width: int, heads: int) -> nn.Module:
    return nn.MultiheadAttention(width, heads, batch_first=True)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, LayerNorm over channels, pointwise MLP, a learned scale for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        z: Tensor = x + (self.gamma * y).permute(0, 3, 1, 2)
        return z


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over the channels of an image, spelled out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.norm0 = ChannelsFirstNorm(12)
        self.stage1 = nn.Sequential(ConvNextBlock(12), ConvNextBlock(12))
        self.down = nn.Conv2d(12, 16, 2, 2)
        self.stage2 = ConvNextBlock(16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.norm0(self.stem(x)))))
        y: Tensor = self.head(self.norm(x.mean([-2, -1])))
        return y
