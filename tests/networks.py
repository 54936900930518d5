"""A zoo of small networks, one for each kind of structure that Espalier carries.

Weights are random but seeded, and the statistics of batch normalisation are randomised, so that
no normalisation is an identity by accident. Every forward takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.networks import (
    CifarResNet,
    DepthwiseSeparableNet,
    MobileNetV1,
    MobileNetV2,
    ResNet8,
)
from tests.zoo.convolutions import (
    DenseNet,
    GroupNormNet,
    SeNet,
    SuperResolution,
    UNet,
    Vgg,
    conv1d_net,
    mobilenet_v1_bn,
    mobilenet_v2_bn,
    resnet18,
    shufflenet_v1,
    shufflenet_v2,
)
from tests.zoo.transformers import (
    ConvNext,
    FusedAttention,
    SpelledOutAttention,
    Vit,
    mlp,
    multihead,
)

__all__ = ["ZOO", "ConvNext", "randomise"]


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
