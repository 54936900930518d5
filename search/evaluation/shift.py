"""Recalibration relative to the original: only what the cut has changed.

Recalibration changes even a network that is not cut: it was trained on augmented examples, many
more of them, normalised by its own batches. `shift` takes that share of the change out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search.evaluation.recalibrate import Statistics, tracked_norms


def held(norm: nn.Module) -> Statistics:
    """The running mean and variance of a batch-norm that tracks them."""
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


def statistics(network: nn.Module) -> dict[str, Statistics]:
    """Running mean and variance of each batch-norm that tracks them, by its path."""
    tracked = set(tracked_norms(network))
    return {path: held(module) for path, module in network.named_modules() if module in tracked}


def shift(
    network: nn.Module,
    original: nn.Module,
    clean: Mapping[str, Statistics],
    left: Mapping[tuple[str, int], NDArray[np.bool_]],
) -> None:
    """Move the original's own statistics by what the cut has changed, in place.

        mean = m + (mean_cut - mean_clean) * sqrt(v / var_clean),    var = v * var_cut / var_clean

    with `m` and `v` of the original as it was trained.

    Args:
        network: cut and recalibrated.
        clean: statistics of the original, recalibrated on the same examples, by path.
        left: which channels are left, see `positions.alive`.
    """
    own = statistics(original)
    for path, module in network.named_modules():
        if path not in clean or not isinstance(module, _BatchNorm):
            continue
        mask = left.get((f"{path}.running_mean", 0))
        mean, variance = held(module)
        rows = slice(None) if mask is None else torch.from_numpy(mask).to(mean.device)
        trained_mean, trained = (value[rows] for value in own[path])
        clean_mean, before = (value[rows] for value in clean[path])
        scale = (trained + module.eps) / (before + module.eps)
        module.running_mean = trained_mean + (mean - clean_mean) * scale.sqrt()
        module.running_var = variance * scale
