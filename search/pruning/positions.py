"""Which positions of which stored tensors survive a cut, in a network at any width.

Kept channels are always numbered as in the original network. A network that was cut at a
`parent` has fewer positions; these functions translate.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from search.graph import shrink
from search.graph.positions import Dimension, alive
from search.space import ChannelGroup, Kept, Member, SearchSpace

__all__ = [
    "Dimension",
    "alive",
    "cuts",
    "everything",
    "narrowed",
    "narrowed_groups",
    "relative",
]


def everything(space: SearchSpace) -> Kept:
    """The kept channels of the full network."""
    return tuple(tuple(range(group.channels)) for group in space.groups)


def relative(parent: Kept, child: Kept) -> Kept:
    """The child's channels, numbered as in a network that was cut at `parent`.

    Raises:
        ValueError: the child keeps a channel that the parent has not.
    """
    result = []
    for group, (outer, inner) in enumerate(zip(parent, child, strict=True)):
        rank = {channel: index for index, channel in enumerate(outer)}
        missing = [channel for channel in inner if channel not in rank]
        if missing:
            raise ValueError(f"group {group}: channels {missing} are not in the parent {outer}")
        result.append(tuple(rank[channel] for channel in inner))
    return tuple(result)


def cuts(space: SearchSpace, parent: Kept, child: Kept) -> dict[Dimension, NDArray[np.intp]]:
    """What to take along each dimension of a network cut at `parent`, to have it cut at `child`.

    Only dimensions that lose something are listed.
    """
    before = alive(space, parent)
    result: dict[Dimension, NDArray[np.intp]] = {}
    for key, left in alive(space, child).items():
        there = left[before[key]] if key in before else left
        if not there.all():
            result[key] = np.flatnonzero(there)
    return result


def narrowed_groups(space: SearchSpace, kept: Kept) -> tuple[ChannelGroup, ...]:
    """The channel groups of the network cut at `kept`, with its own numbering."""
    masks = alive(space, kept)

    def renumbered(member: Member, channels: tuple[int, ...]) -> Member:
        positions = [member.positions[channel] for channel in channels]
        mask = masks.get((member.tensor, member.dim))
        if mask is not None:
            rank = np.cumsum(mask) - 1
            positions = [tuple(int(rank[index]) for index in owned) for owned in positions]
        return dataclasses.replace(member, positions=tuple(positions))

    return tuple(
        ChannelGroup(
            name=group.name,
            channels=len(channels),
            members=tuple(renumbered(member, channels) for member in group.members),
        )
        for group, channels in zip(space.groups, kept, strict=True)
    )


def narrowed(space: SearchSpace, kept: Kept) -> SearchSpace:
    """The search space of the network cut at `kept`.

    Sizes are the same functions of the channels kept, since each channel owns what it owned.
    """
    graph = shrink(space, kept)
    return dataclasses.replace(space, graph=graph, groups=narrowed_groups(space, kept))
