"""Which positions of the stored tensors a cut leaves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from search.space import Kept, Member, SearchSpace

Dimension = tuple[str, int]
"""A stored tensor's name and one of its dimensions."""


def _removed(space: SearchSpace, kept: Kept) -> Iterator[tuple[Member, NDArray[np.intp]]]:
    """Each member that loses something, with the positions it loses in the original tensor."""
    for group, channels in zip(space.groups, kept, strict=True):
        if len(channels) == group.channels:
            continue
        gone = sorted(set(range(group.channels)).difference(channels))
        known: dict[tuple[tuple[int, ...], ...], NDArray[np.intp]] = {}  # most members are alike
        for member in group.members:
            if member.positions not in known:
                owned = [member.positions[channel] for channel in gone]
                known[member.positions] = np.array(owned).ravel()
            yield member, known[member.positions]


def alive(space: SearchSpace, kept: Kept) -> dict[Dimension, NDArray[np.bool_]]:
    """For each cut dimension, which of the original tensor's positions are left."""
    masks: dict[Dimension, NDArray[np.bool_]] = {}
    for member, positions in _removed(space, kept):
        key = (member.tensor, member.dim)
        if key not in masks:
            size = space.graph.stored[member.tensor].shape[member.dim]
            masks[key] = np.ones(size, np.bool_)
        masks[key][positions] = False
    return masks
