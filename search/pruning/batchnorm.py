"""The scale of batch normalisation as a channel's importance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.pruning.norms import l1, rows
from search.space import ChannelGroup, Member


def _is_scale(network: nn.Module, member: Member) -> bool:
    path, _, local = member.tensor.rpartition(".")
    batch_norm = isinstance(
        network.get_submodule(path), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    )
    return batch_norm and local == "weight"


def bn_scale(network: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """`(channels,)` sums of |gamma| over every batch normalisation of the channel.

    A group that no batch normalisation scales is ranked by `l1` instead: scores are compared
    inside a group only, so the two never mix.

    Source: Liu et al. 2017, arXiv:1708.06519, section 3.

    Deviations from the paper: no sparsity is trained into gamma; channels are ranked in their
    group rather than over the network, since the plan is given; coupled normalisations are summed.
    """
    scales = [rows(network, item) for item in group.members if _is_scale(network, item)]
    if not scales:
        return l1(network, group, generator)
    return torch.stack([scale.abs().sum(1) for scale in scales]).sum(0)
