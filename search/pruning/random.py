"""Chance: the control that every other criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.space import ChannelGroup


def uniform(_network: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """`(channels,)` independent draws from [0, 1)."""
    return torch.rand(group.channels, generator=generator, device=generator.device)
