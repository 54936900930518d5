"""Batch-norm statistics estimated anew for a network whose channels were cut.

Source: Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning",
arXiv:2007.02491, section 3.3 (adaptive batch normalisation).

Deviations from the paper:
1. Statistics start empty and are the plain average over all calibration batches, where the paper
   moves the old ones with a momentum: the result depends on no further number.
2. An incomplete last batch is left out where others exist, since the average gives every batch
   the same weight.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def tracked_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch-norm modules that keep running statistics, each once."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [module for module in norms if module.running_mean is not None]


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by those of the batches, in place.

    Every buffer is replaced by a new tensor, so that networks which share the old one keep it.
    Momentum and modes (train, eval) are as before when it returns. Nothing happens without
    batch-norm or without batches.

    Args:
        batches: inputs `(n, ...)`, each with more than one value a channel.
    """
    norms = tracked_norms(network)
    if not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    old = [(norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
    network.eval()
    for norm in norms:
        for name, value in list(norm.named_buffers()):
            fresh = torch.ones_like(value) if name == "running_var" else torch.zeros_like(value)
            setattr(norm, name, fresh)
        norm.momentum = None  # torch's name for the cumulative average
        norm.train()
    seen = False
    try:
        with torch.no_grad():
            for batch in batches:
                network(batch)
                seen = True
    finally:
        for norm, momentum, buffers in zip(norms, momenta, old, strict=True):
            norm.momentum = momentum
            if not seen:
                norm.running_mean, norm.running_var, norm.num_batches_tracked = buffers
        for module, mode in modes.items():
            module.training = mode
