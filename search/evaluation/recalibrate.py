"""Batch-norm statistics estimated anew for a network whose channels were cut.

Source: Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning",
arXiv:2007.02491, section 3.3 (adaptive batch normalisation).

Two ways. `recalibrate` runs batch after batch in training mode, as the paper does. `Layerwise` goes
through the network once and stops at each batch-norm for its statistics over all examples, which it
then applies: all of them are exact, and those further on are of what the network yields in
inference. It holds the live activations of all examples.

Deviations from the paper:
1. Statistics start empty and are the plain average over all calibration batches, where the paper
   moves the old ones with a momentum: the result depends on no further number.
2. An incomplete last batch is left out where others exist, since the average gives every batch
   the same weight. (`recalibrate`)
3. There are no batches: mean and variance are over all examples, and each layer sees its inputs
   normalised by them instead of by its own batch's. (`Layerwise`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search.evaluation.inference import (
    affine,
    laid_out,
    prefers_channels_last,
    with_channels_last,
)
from search.evaluation.program import Run, Values, in_place

Statistics = tuple[Tensor, Tensor]
"""Running mean and variance, `(channels,)` each."""


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


def _held(norm: _BatchNorm) -> Statistics:
    """Copies of the statistics of a batch-norm that tracks them."""
    return cast(Tensor, norm.running_mean).clone(), cast(Tensor, norm.running_var).clone()


def can_go_layerwise(network: fx.GraphModule) -> bool:
    """Whether each batch-norm is called just once."""
    run = Run(network)
    called = [run.program.steps[at].target for at in _barriers(run)]
    return set(called) <= run.program.called_once


def _barriers(run: Run) -> dict[int, _BatchNorm]:
    return {
        at: module
        for at, module in run.modules.items()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


class Layerwise(Run):
    """Finds the statistics of a network in eval mode layer by layer.

    Attributes:
        overwritten: steps whose values a later step overwrites.
        norms: batch-norms with running statistics, by step.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.channels_last = prefers_channels_last(network)
        if self.channels_last:
            with_channels_last(self)
        self.norms = _barriers(self)
        self.overwritten = in_place(self) | {
            source
            for at in self.norms
            for source in self.program.steps[at].reads
            if self._may_overwrite(source)
        }

    def begin(self, inputs: Tensor) -> Values:
        return super().begin(laid_out(inputs, self.channels_last))

    def find(self, values: Sequence[Values], start: int = 0, stop: int | None = None) -> None:
        """Replace the statistics of the batch-norms between two positions, in place.

        Every buffer is replaced by a new tensor. Nothing is run behind the last batch-norm unless
        `stop` is given.

        Args:
            values: of each batch, at `start`; moved on.
        """
        last = len(self.program.steps) if stop is None else stop
        with torch.no_grad():
            at = start
            for norm in self.norms:
                if start <= norm < last:
                    self._advance_all(values, at, norm)
                    self._settle(values, norm)
                    at = norm
            if stop is not None:
                self._advance_all(values, at, stop)

    def statistics(self, stop: int) -> dict[int, Statistics]:
        """What was found before a position, by step."""
        return {at: _held(norm) for at, norm in self.norms.items() if at < stop}

    def restore(self, statistics: Mapping[int, Statistics]) -> None:
        """Use what another run has found; the buffers are copies."""
        for at, (mean, variance) in statistics.items():
            self._set(at, mean.clone(), variance.clone())

    def _advance_all(self, values: Sequence[Values], start: int, stop: int) -> None:
        for batch in values:
            self.advance(batch, start, stop)

    def _settle(self, values: Sequence[Values], at: int) -> None:
        (source,) = self.program.steps[at].reads
        moments = Moments()
        for batch in values:
            moments.add(batch[source])
        self._set(at, moments.mean, moments.variance)

    def _set(self, at: int, mean: Tensor, variance: Tensor) -> None:
        norm = self.norms[at]
        like = cast(Tensor, norm.running_mean)
        norm.running_mean, norm.running_var = mean.to(like), variance.to(like)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = torch.ones_like(norm.num_batches_tracked)
        (source,) = self.program.steps[at].reads
        self.calls[at] = _Affine(norm, overwrite=self._may_overwrite(source))

    def _may_overwrite(self, source: int) -> bool:
        convolution = isinstance(self.modules.get(source), nn.Conv1d | nn.Conv2d | nn.Conv3d)
        return convolution and self.program.only_reader(source) is not None


class _Affine:
    """A batch-norm with its statistics, as one multiplication and one addition."""

    def __init__(self, norm: nn.Module, *, overwrite: bool) -> None:
        self._scale, self._shift = affine(norm)
        self._overwrite = overwrite

    def __call__(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.dim() - 2))
        scale, shift = self._scale.view(shape), self._shift.view(shape)
        return torch.addcmul(shift, x, scale, out=x if self._overwrite else None)


class Moments:
    """Mean and unbiased variance of each channel over all batches, `(channels,)` float64.

    Each batch's are exact about its own mean; merged by Chan et al. 1979, "Updating formulae and a
    pairwise algorithm for computing sample variances", eq. 2.1.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(())
        self._squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take a batch `(n, channels, ...)`."""
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        count = len(rows)
        mean = rows.mean(0)
        away = rows - mean
        squares, mean = away.mul_(away).sum(0).double(), mean.double()
        if self._count == 0:
            self._count, self._mean, self._squares = count, mean, squares
            return
        total = self._count + count
        gap = mean - self._mean
        self._squares = self._squares + squares + gap * gap * (self._count * count / total)
        self._mean = self._mean + gap * (count / total)
        self._count = total

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self._squares / max(1, self._count - 1)
