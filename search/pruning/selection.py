"""From how many channels a group keeps to which ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from search.graph.shrink import check
from search.pruning.criteria import scores
from search.pruning.norms import tensor_of
from search.pruning.positions import everything, narrowed_groups
from search.space import Kept, Plan, SearchSpace


def select(
    network: nn.Module,
    space: SearchSpace,
    plan: Plan,
    criterion: str,
    generator: torch.Generator,
    within: Kept | None = None,
    order: Callable[[int], Sequence[int] | None] | None = None,
) -> Kept:
    """The channels of the highest scores in each group; of equal scores, the first.

    Args:
        network: ranked by its weights: the full network, or the one cut at `within` (whose
            weights may have been tuned since).
        space: of the full network.
        plan: how many channels each group keeps.
        criterion: a name from `criteria.CRITERIA`.
        generator: for criteria that involve chance; groups draw in their order.
        within: choose among these; everything by default.
        order: gives a group's channels in the order in which they go, by the group's index, or
            `None` to leave it to the criterion.

    Returns:
        Kept channels, numbered as in the full network.

    Raises:
        ValueError: the plan does not fit the groups or keeps more than `within` has.
    """
    if len(plan) != len(space.groups):
        raise ValueError(f"a plan for {len(plan)} groups does not fit {len(space.groups)}")
    available = everything(space) if within is None else within
    check(space, available)
    cut = _is_cut(network, space)
    groups = narrowed_groups(space, available) if cut else space.groups
    kept: list[tuple[int, ...]] = []
    for index, (group, channels, width) in enumerate(zip(groups, available, plan, strict=True)):
        if not 1 <= width <= len(channels):
            raise ValueError(
                f"group {group.name} cannot keep {width} channels: {len(channels)} are available"
            )
        if width == len(channels):
            kept.append(channels)
            continue
        known = None if order is None else order(index)
        if known is not None:
            here = frozenset(channels)
            left = [channel for channel in known if channel in here]
            kept.append(tuple(sorted(left[len(left) - width :])))
            continue
        found = scores(network, group, criterion, generator)
        if not cut:
            found = found[torch.tensor(channels, device=found.device)]
        best = torch.sort(found, descending=True, stable=True).indices[:width]
        kept.append(tuple(sorted(channels[place] for place in best.tolist())))
    return tuple(kept)


def _is_cut(network: nn.Module, space: SearchSpace) -> bool:
    """Whether the network is narrower than the space's."""
    stored = space.graph.stored
    names = {member.tensor for group in space.groups for member in group.members}
    return any(tuple(tensor_of(network, name).shape) != stored[name].shape for name in names)
