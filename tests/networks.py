"""A zoo of small networks, one for each kind of structure that Espalier carries.

Weights are random but seeded, and the statistics of batch normalisation are randomised, so that
no normalisation is an identity by accident. Every forward takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import (
    CifarResNet,
    DepthwiseSeparableNet,
    MobileNetV1,
    MobileNetV2,
    ResNet8,
)


class ImageNetBlock(nn.Module):
    """Residual block with in-place activation, as in the ImageNet ResNets."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        y: Tensor = self.relu(out)
        return y


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 8
    for width, stride in ((8, 1), (16, 2), (32, 2), (64, 2)):
        layers += [ImageNetBlock(channels, width, stride), ImageNetBlock(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Vgg(nn.Module):
    """VGG with batch normalisation; the classifier sees a flattened 2x2 map."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (8, 0, 12, 12, 0, 16, 16, 0):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers += [nn.ReLU(inplace=True)]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(64, 24), nn.ReLU(True), nn.Dropout(0.4), nn.Linear(24, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = x.view(-1, 16 * 2 * 2)  # the constant that pruning has to rewrite
        y: Tensor = self.classifier(x)
        return y


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))


def mobilenet_v1_bn() -> nn.Module:
    layers: list[nn.Module] = [_conv_bn(3, 8, 3, 2)]
    channels = 8
    for width, stride in ((12, 1), (16, 2), (16, 1), (24, 2)):
        layers += [_conv_bn(channels, channels, 3, stride, channels), _conv_bn(channels, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class InvertedResidualBn(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_bn(c_in, hidden, 1)]
        layers += [_conv_bn(hidden, hidden, 3, stride, hidden)]
        layers += [nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out)]
        self.conv = nn.Sequential(*layers)
        self.identity = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.identity else y


def mobilenet_v2_bn() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 8, 3, 2),
        InvertedResidualBn(8, 8, 1, 1),
        InvertedResidualBn(8, 12, 2, 4),
        InvertedResidualBn(12, 12, 1, 4),
        InvertedResidualBn(12, 16, 2, 4),
        _conv_bn(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


class DenseLayer(nn.Module):
    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, 16, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, growth, 3, 1, 1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        y: Tensor = self.conv2(F.relu(self.norm2(x)))
        return y


class DenseNet(nn.Module):
    """Every layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.block1 = nn.ModuleList(DenseLayer(8 + 6 * i, 6) for i in range(3))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(26), nn.ReLU(), nn.Conv2d(26, 12, 1, bias=False), nn.AvgPool2d(2)
        )
        self.block2 = nn.ModuleList(DenseLayer(12 + 6 * i, 6) for i in range(2))
        self.norm = nn.BatchNorm2d(24)
        self.classifier = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.block1:
            features.append(layer(features))
        features = [self.transition(torch.cat(features, 1))]
        for layer in self.block2:
            features.append(layer(features))
        x = F.relu(self.norm(torch.cat(features, 1)))
        y: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return y


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnitV2(nn.Module):
    """Half of the channels pass by, the other half is transformed, then both are interleaved."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        half = c_out // 2
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False),
                nn.BatchNorm2d(c_in),
                nn.Conv2d(c_in, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        source = c_in if stride > 1 else half
        self.branch2 = nn.Sequential(
            nn.Conv2d(source, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            out = torch.cat((self.branch1(x), self.branch2(x)), 1)
        else:
            left, right = x.chunk(2, 1)
            out = torch.cat((left, self.branch2(right)), 1)
        return shuffle(out, 2)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 8, 3, 2),
        ShuffleUnitV2(8, 16, 2),
        ShuffleUnitV2(16, 16, 1),
        ShuffleUnitV2(16, 16, 1),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class ShuffleUnitV1(nn.Module):
    """Grouped pointwise convolutions with a channel shuffle between them."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Conv2d(channels, channels // 2, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.dw = nn.Conv2d(channels // 2, channels // 2, 3, 1, 1, groups=channels // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(channels // 2)
        self.restore = nn.Conv2d(channels // 2, channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(F.relu(self.bn1(self.reduce(x))), self.groups)
        y = self.bn3(self.restore(self.bn2(self.dw(y))))
        return F.relu(x + y)


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(
        _conv_bn(3, 24, 3, 2),
        ShuffleUnitV1(24, 3),
        ShuffleUnitV1(24, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class SqueezeExcite(nn.Module):
    """Channel weights from the global mean. Source: Hu et al. 2018, arXiv:1709.01507."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(scale))))


class LinearSqueezeExcite(nn.Module):
    """The same with linear maps, `expand_as`, and a hard sigmoid."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.SiLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(x.mean((2, 3)).view(b, c)).view(b, c, 1, 1)
        z: Tensor = x * y.expand_as(x)
        return z


class SeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 8, 3, 2)
        self.conv1, self.se1 = nn.Conv2d(8, 12, 3, 1, 1), SqueezeExcite(12, 4)
        self.conv2, self.se2 = nn.Conv2d(12, 12, 3, 1, 1), LinearSqueezeExcite(12, 6)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se1(F.hardswish(self.conv1(self.stem(x))))
        x = x + self.se2(F.silu(self.conv2(x)))
        y: Tensor = self.head(x.mean(dim=[2, 3]))
        return y


class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(4, 16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.GroupNorm(4, 16)
        self.conv3, self.norm3 = nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.GroupNorm(1, 24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(x + self.norm2(self.conv2(x)))
        x = F.relu(self.norm3(self.conv3(x)))
        y: Tensor = self.fc(x.mean((-2, -1)))
        return y


class UNet(nn.Module):
    """Two levels; one goes up by a transposed convolution, one by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.bottom = nn.Sequential(nn.Conv2d(12, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.fuse2 = nn.Sequential(nn.Conv2d(24, 12, 3, 1, 1), nn.LeakyReLU(0.1))
        self.fuse1 = nn.Sequential(nn.Conv2d(20, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.up2(self.bottom(F.max_pool2d(b, 2)))
        y = self.fuse2(torch.cat([y, b], dim=1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        z: Tensor = self.head(self.fuse1(torch.cat([y, a], dim=1)))
        return z


class SuperResolution(nn.Module):
    """Sub-pixel convolution. Source: Shi et al. 2016, arXiv:1609.05158."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act = nn.Conv2d(1, 8, 5, 1, 2), nn.PReLU(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1)
        self.conv3 = nn.Conv2d(8, 4, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.conv3(torch.tanh(self.conv2(self.act(self.conv1(x))))))
        return y


def conv1d_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 7, 2, 3, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 12, 3, padding=2, dilation=2),
        nn.BatchNorm1d(12),
        nn.ELU(),
        nn.AvgPool1d(2),
        nn.Conv1d(12, 16, 3, padding=1, groups=4),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


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


def randomise(network: nn.Module, seed: int = 0, *, gain: float = 1.5) -> nn.Module:
    """Give every parameter and statistic a value that is not its default; eval mode.

    Args:
        gain: variance of a weight times its fan-in; below 1 where many residual sums add up.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            normal(parameter, 0.0, 0.1 if fan_in == 1 else (gain / fan_in) ** 0.5)
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if weight is not None and weight.dim() == 1:
                normal(weight, 1.0, 0.2)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                normal(module.running_mean, 0.0, 0.3)
                module.running_var.copy_(
                    torch.rand(module.running_var.shape, generator=generator) + 0.5
                )
    return network.eval()


def _entry(
    make: Callable[[], nn.Module], *shape: int, gain: float = 1.5
) -> Callable[[], tuple[nn.Module, Tensor]]:
    def build() -> tuple[nn.Module, Tensor]:
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = make()
        return randomise(network, gain=gain), torch.randn(2, *shape, generator=generator)

    return build


ZOO: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet20a": _entry(lambda: CifarResNet(20, "a", width=8), 3, 16, 16, gain=0.6),
    "resnet20b": _entry(lambda: CifarResNet(20, "b", width=8), 3, 16, 16, gain=0.6),
    "resnet56a": _entry(lambda: CifarResNet(56, "a", width=4), 3, 16, 16, gain=0.3),
    "resnet18": _entry(resnet18, 3, 64, 64, gain=0.6),
    "vgg": _entry(Vgg, 3, 16, 16),
    "mobilenet_v1": _entry(lambda: MobileNetV1(0.125, classes=10), 3, 32, 32),
    "mobilenet_v1_bn": _entry(mobilenet_v1_bn, 3, 16, 16),
    "mobilenet_v2": _entry(lambda: MobileNetV2(divisor=8, classes=10), 3, 32, 32),
    "mobilenet_v2_bn": _entry(mobilenet_v2_bn, 3, 16, 16),
    "densenet": _entry(DenseNet, 3, 12, 12),
    "shufflenet_v1": _entry(shufflenet_v1, 3, 16, 16),
    "shufflenet_v2": _entry(shufflenet_v2, 3, 16, 16),
    "squeeze_excite": _entry(SeNet, 3, 16, 16),
    "group_norm": _entry(GroupNormNet, 3, 12, 12),
    "unet": _entry(UNet, 1, 16, 16),
    "pixel_shuffle": _entry(SuperResolution, 1, 10, 10),
    "conv1d": _entry(conv1d_net, 2, 64),
    "mlp": _entry(mlp, 3, 4, 4),
    "vit_fused": _entry(lambda: Vit(FusedAttention), 3, 16, 16),
    "vit_spelled_out": _entry(lambda: Vit(SpelledOutAttention), 3, 16, 16),
    "vit_multihead": _entry(lambda: Vit(multihead), 3, 16, 16),
    "convnext": _entry(ConvNext, 3, 16, 16),
    "same_padding_resnet8": _entry(lambda: ResNet8(width=8), 3, 16, 16),
    "same_padding_dscnn": _entry(lambda: DepthwiseSeparableNet(width=12), 1, 49, 10),
}
"""By name: a function that makes the network (eval mode) and an example of two inputs."""
