"""What one group loses at each width, measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search.evaluation.evaluator import Evaluated, Evaluator
from search.levels import anchors, interpolated

EXAMPLES = 256
"""Of the hold-out, for each anchor."""


def level(
    evaluator: Evaluator, group: int, options: Sequence[int], random: torch.Generator
) -> tuple[Evaluated, tuple[float, ...] | None]:
    """Cut one group alone at the anchors, and tell its loss at every width.

    The loss is the Kullback-Leibler divergence of the network's outputs from the original's.

    Args:
        options: the group's allowed widths, ascending.
        random: for criteria that involve chance.
    Returns:
        What the narrowest anchor gave, and losses `(channels,)` of keeping 1, 2, ...; `None` if an
        output is not a number.
    """
    full = evaluator.space.full
    channels = full[group]
    measured: dict[int, float] = {}
    kept, metrics = None, evaluator.baseline()
    for width in anchors(options):
        plan = (*full[:group], width, *full[group + 1 :])
        kept = evaluator.choose(plan, random)
        metrics = evaluator.glance(kept, EXAMPLES)
        if "kl" not in metrics:
            return Evaluated(metrics, None, kept), None
        measured[width] = metrics["kl"]
    if kept is None:  # the group has one width only
        kept = evaluator.choose(full, random)
        losses: tuple[float, ...] | None = (0.0,) * channels
    else:
        removal = evaluator.removal(group)
        errors = None if removal is None else removal.errors
        losses = interpolated(errors, measured, channels)
    return Evaluated(metrics, evaluator.score(metrics), kept), losses
