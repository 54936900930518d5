"""The plan as a file: which channels stayed, by group and by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from search.pruning.positions import cuts, everything
from search.space import Exclusion, Kept, SearchSpace


def plan_facts(
    space: SearchSpace, kept: Kept, without_choice: Sequence[Exclusion]
) -> dict[str, Any]:
    """JSON values: the plan, what is kept per group and per layer, and what was left out.

    Args:
        without_choice: groups that the rounding left nothing but their full width.

    A layer's entry names, for each of its tensors that lost something, the dimensions that were
    cut and the indices that stayed, all numbered as in the original network.
    """
    layers: dict[str, dict[str, dict[str, list[int]]]] = {}
    for (tensor, dim), indices in sorted(cuts(space, everything(space), kept).items()):
        layer, _, name = tensor.rpartition(".")
        layers.setdefault(layer, {}).setdefault(name, {})[str(dim)] = indices.tolist()
    return {
        "plan": [len(channels) for channels in kept],
        "groups": [
            {"name": group.name, "channels": group.channels, "kept": list(channels)}
            for group, channels in zip(space.groups, kept, strict=True)
        ],
        "layers": layers,
        "without_choice": [asdict(item) for item in without_choice],
        "excluded": [asdict(item) for item in space.excluded],
    }
