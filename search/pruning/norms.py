"""Norms of the weights that produce a channel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from search.space import ChannelGroup, Member


def tensor_of(network: nn.Module, name: str) -> Tensor:
    """A stored tensor by its name in the `state_dict`."""
    path, _, local = name.rpartition(".")
    tensor = getattr(network.get_submodule(path), local)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, not a stored tensor")
    return tensor


def rows(network: nn.Module, member: Member) -> Tensor:
    """`(channels, elements)`: what each channel owns of a member's tensor, at least float32."""
    tensor = tensor_of(network, member.tensor).detach()
    positions = torch.tensor(member.positions, device=tensor.device).flatten()
    owned = tensor.movedim(member.dim, 0).index_select(0, positions)
    owned = owned.reshape(len(member.positions), -1)
    return owned.to(torch.promote_types(owned.dtype, torch.float32))


def _filters(network: nn.Module, group: ChannelGroup) -> Iterator[Tensor]:
    """The weights that produce the group's channels: biases only where there is nothing else."""
    produces = [member for member in group.members if member.role == "produces"]
    weights = [item for item in produces if tensor_of(network, item.tensor).dim() > 1]
    for member in weights or produces:
        yield rows(network, member)


def l1(network: nn.Module, group: ChannelGroup, _generator: torch.Generator) -> Tensor:
    """`(channels,)` sums of absolute weights over every filter that produces the channel.

    s_c = sum over producers m of sum |W_m[c]|: the 1-norm of all of them as one vector.
    Biases do not count.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.1, for one producer; summed over coupled
    producers as in Fang et al. 2023, arXiv:2301.12900, section 3.3 (p = 1).
    """
    return torch.stack([weights.abs().sum(1) for weights in _filters(network, group)]).sum(0)


def l2(network: nn.Module, group: ChannelGroup, _generator: torch.Generator) -> Tensor:
    """`(channels,)` 2-norms of all filters that produce the channel, taken as one vector.

    s_c = sqrt(sum over producers m of sum W_m[c]^2). Biases do not count.

    Source: Yang et al. 2018, arXiv:1804.03230, section 3.3, for one producer; over coupled
    producers as for `l1`.
    """
    squares = [weights.square().sum(1) for weights in _filters(network, group)]
    return torch.stack(squares).sum(0).sqrt()
