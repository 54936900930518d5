"""The architectures of the trained networks that the benchmarks start from.

Names of modules equal those in the published weight files, so that a `state_dict` loads as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class SubsampleAndPad(nn.Module):
    """Shortcut of option A: every second pixel, and zeros for the channels that are missing."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.before = (c_out - c_in) // 2
        self.after = c_out - c_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He et al. 2016, arXiv:1512.03385, figure 5."""

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            if shortcut == "a":
                self.downsample = SubsampleAndPad(c_in, c_out)
            else:
                self.downsample = nn.Sequential(
                    nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
                )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class CifarResNet(nn.Module):
    """ResNet for 32x32 images. Source: He et al. 2016, arXiv:1512.03385, section 4.2.

    Args:
        depth: 6n + 2 (20, 32, 44, 56, 110).
        shortcut: `"a"` (no parameters) or `"b"` (1x1 convolution and batch normalisation).
        width: channels of the first stage.
    """

    def __init__(
        self, depth: int = 20, shortcut: str = "a", *, width: int = 16, classes: int = 10
    ) -> None:
        super().__init__()
        if (depth - 2) % 6 or shortcut not in ("a", "b"):
            raise ValueError(f"depth must be 6n + 2 and shortcut a or b, not {depth}, {shortcut}")
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage in range(3):
            blocks = []
            for index in range((depth - 2) // 6):
                c_out, stride = width << stage, 2 if stage and not index else 1
                blocks.append(BasicBlock(channels, c_out, stride, shortcut))
                channels = c_out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        # The published files of the two variants name the classifier differently.
        self.add_module("linear" if shortcut == "a" else "fc", nn.Linear(channels, classes))
        self.classifier_name = "linear" if shortcut == "a" else "fc"

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        x = F.avg_pool2d(x, x.shape[3]).flatten(1)
        y: Tensor = self.get_submodule(self.classifier_name)(x)
        return y


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME: the smaller half of the padding comes first."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        groups: int = 1,
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        if height or width:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        y: Tensor = super().forward(x)
        return y


class FoldedBlock(nn.Module):
    """Residual block of `ResNet8`, batch normalisation folded into the convolutions."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SameConv2d(c_in, c_out, 3, stride)
        self.conv2 = SameConv2d(c_out, c_out, 3)
        if stride != 1:
            self.shortcut = SameConv2d(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class ResNet8(nn.Module):
    """Image classification network of MLPerf Tiny; input 3x32x32, values 0 to 255."""

    def __init__(self, *, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = SameConv2d(3, width, 3)
        self.block1 = FoldedBlock(width, width, 1)
        self.block2 = FoldedBlock(width, 2 * width, 2)
        self.block3 = FoldedBlock(2 * width, 4 * width, 2)
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(F.relu(self.stem(x)))))
        y: Tensor = self.classifier(x.mean((2, 3)))
        return y


class Separable(nn.Module):
    """Depthwise then pointwise convolution, a rectifier after each, normalisation folded."""

    def __init__(self, c_in: int, c_out: int, stride: int, limit: float) -> None:
        super().__init__()
        self.dw = SameConv2d(c_in, c_in, 3, stride, groups=c_in)
        self.pw = SameConv2d(c_in, c_out, 1)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return rectify(self.pw(rectify(self.dw(x), self.limit)), self.limit)


def rectify(x: Tensor, limit: float) -> Tensor:
    """ReLU, or ReLU6 where `limit` is 6."""
    return F.relu6(x) if limit == 6 else F.relu(x)


class DepthwiseSeparableNet(nn.Module):
    """Keyword spotting network of MLPerf Tiny; input 1x49x10."""

    def __init__(self, *, width: int = 64, classes: int = 12) -> None:
        super().__init__()
        self.stem = SameConv2d(1, width, (10, 4), 2)
        self.blocks = nn.Sequential(*(Separable(width, width, 1, float("inf")) for _ in range(4)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return y


class MobileNetV1(nn.Module):
    """MobileNet, normalisation folded, TensorFlow padding. Source: arXiv:1704.04861, table 1.

    Args:
        alpha: multiplies every width.
    """

    WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, alpha: float = 0.25, *, classes: int = 1000) -> None:
        super().__init__()
        channels = int(32 * alpha)
        self.stem = SameConv2d(3, channels, 3, 2)
        blocks = []
        for width, stride in zip(self.WIDTHS, self.STRIDES, strict=True):
            blocks.append(Separable(channels, int(width * alpha), stride, 6))
            channels = int(width * alpha)
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.blocks(F.relu6(self.stem(x))).mean((2, 3)))
        return y


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, normalisation folded. Source: arXiv:1801.04381, table 1."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        if expansion != 1:
            self.expand = SameConv2d(c_in, hidden, 1)
        self.dw = SameConv2d(hidden, hidden, 3, stride, groups=hidden)
        self.project = SameConv2d(hidden, c_out, 1)
        self.identity = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = self.project(F.relu6(self.dw(y)))
        z: Tensor = x + y if self.identity else y
        return z


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0, normalisation folded, TensorFlow padding. Source: arXiv:1801.04381.

    Args:
        divisor: divides every width, for small variants.
    """

    STAGES = (  # expansion, width, repeats, stride of the first
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, *, divisor: int = 1, classes: int = 1000) -> None:
        super().__init__()
        channels = 32 // divisor
        self.stem = SameConv2d(3, channels, 3, 2)
        self.blocks = nn.Sequential(*self._blocks(channels, divisor))
        self.head = SameConv2d(320 // divisor, 1280 // divisor, 1)
        self.classifier = nn.Linear(1280 // divisor, classes)

    def _blocks(self, channels: int, divisor: int) -> Iterator[nn.Module]:
        for expansion, width, repeats, stride in self.STAGES:
            for index in range(repeats):
                yield InvertedResidual(
                    channels, width // divisor, stride if index == 0 else 1, expansion
                )
                channels = width // divisor

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        y: Tensor = self.classifier(x.mean((2, 3)))
        return y


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "cifar10_resnet20a": lambda: CifarResNet(20, "a"),
    "cifar10_resnet20a_holdout": lambda: CifarResNet(20, "a"),
    "cifar10_resnet20a_q75ft": lambda: CifarResNet(20, "a"),
    "cifar10_resnet20b": lambda: CifarResNet(20, "b"),
    "cifar10_resnet32a": lambda: CifarResNet(32, "a"),
    "cifar10_resnet44a": lambda: CifarResNet(44, "a"),
    "cifar10_resnet56a": lambda: CifarResNet(56, "a"),
    "cifar10_resnet8_mlperf": ResNet8,
    "kws_dscnn_mlperf": DepthwiseSeparableNet,
    "imagenet_mobilenet_v1_0.25_128": lambda: MobileNetV1(0.25),
    "imagenet_mobilenet_v1_0.5_160": lambda: MobileNetV1(0.5),
    "imagenet_mobilenet_v2_1.0_224": MobileNetV2,
}


def published(name: str, folder: Path) -> nn.Module:
    """A trained network in eval mode, its weights from `folder/nets/<name>.safetensors`.

    Raises:
        KeyError: no architecture of that name.
        RuntimeError: the file's tensors are not the architecture's.
    """
    network = PUBLISHED[name]()
    weights = load_file(folder / "nets" / f"{name}.safetensors")
    # The files leave out the counters of batch normalisation, which eval mode does not read.
    counters = {
        key: torch.zeros((), dtype=torch.int64)
        for key in network.state_dict()
        if key.endswith("num_batches_tracked")
    }
    network.load_state_dict({**counters, **weights})
    return network.eval()
