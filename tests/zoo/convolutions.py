"""Networks of the zoo that are made of convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
