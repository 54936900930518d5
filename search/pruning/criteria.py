"""Criteria: how much each channel of a coupled group matters. One file a family.

A criterion sees a network and one group, never the budget. Its scores rank channels of the same
group; scores of different groups are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from search.pruning.batchnorm import bn_scale
from search.pruning.norms import l1, l2
from search.pruning.random import uniform
from search.space import ChannelGroup

Score = Callable[[nn.Module, ChannelGroup, torch.Generator], Tensor]

CRITERIA: Mapping[str, Score] = {"l1": l1, "l2": l2, "bn_scale": bn_scale, "random": uniform}
"""By the name that a job's specification gives (`spec.Criterion`)."""


def scores(
    network: nn.Module, group: ChannelGroup, criterion: str, generator: torch.Generator
) -> Tensor:
    """Importance of each of a group's channels.

    Args:
        network: its width must be the one that the group's positions refer to.
        criterion: a name from `CRITERIA`.
        generator: only drawn from by criteria that involve chance.

    Returns:
        `(channels,)` scores; higher means keep.

    Raises:
        ValueError: there is no such criterion.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"no criterion is called {criterion}: choose from {', '.join(CRITERIA)}")
    return CRITERIA[criterion](network, group, generator)
