"""The form in which a network is scored: the same function, computed faster.

A batch-norm with running statistics that alone reads a convolution or linear map is folded into it:
`w' = w * s`, `b' = (b - mean) * s + beta` with `s = gamma / sqrt(var + eps)`. Convolutional
networks of images run with channels last. ReLUs and sums overwrite what nothing else reads.
The pairs follow from the code, which cuts of one network share; a cut folds its tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from search.evaluation.program import Program, Run, Values, in_place
from search.pruning import clone

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Folding = Convolution | nn.Linear


class Inference(Run):
    """A network in eval mode, to be called without gradients; never changes it.

    Args:
        network: as `espalier.load` or `apply` made it.
        dtype: of inputs and weights; `None` leaves them as they are. Batch-norms are folded in the
            network's own.

    Attributes:
        overwritten: steps whose values a later step overwrites.
    """

    def __init__(self, network: fx.GraphModule, dtype: torch.dtype | None = None) -> None:
        super().__init__(network if dtype is None else clone(network).to(dtype))
        self._dtype = dtype
        self._channels_last = prefers_channels_last(network)
        exact = self.modules if dtype is None else Run(network).modules
        with torch.no_grad():
            for at, norm, module in folded(self.program, exact):
                self.calls[at] = self._fold(at, norm, module, exact[norm])
                self.calls[norm] = _same
            if self._channels_last:
                with_channels_last(self)
        self.overwritten = in_place(self)

    def begin(self, inputs: Tensor) -> Values:
        return super().begin(laid_out(inputs, self._channels_last, self._dtype))

    def _fold(
        self, at: int, norm: int, module: Folding, exact: nn.Module
    ) -> Callable[[Tensor], Tensor]:
        scale, shift = affine(exact)
        weight = module.weight * scale.view(-1, *(1,) * (module.weight.dim() - 1))
        bias = shift if module.bias is None else module.bias * scale + shift
        if self._dtype is not None:
            weight, bias = weight.to(self._dtype), bias.to(self._dtype)
        if not isinstance(module, nn.Linear):
            return _convolution(module, weight, bias, self._channels_last)
        plain, plain_norm = self.calls[at], self.calls[norm]

        def linear(x: Tensor) -> Tensor:
            if x.dim() == 2:
                return functional.linear(x, weight, bias)
            result: Tensor = plain_norm(plain(x))  # which norms the second of three dimensions
            return result

        return linear


def laid_out(inputs: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Inputs with channels last, if they are images; floats in the type asked for."""
    if dtype is not None and inputs.is_floating_point():
        inputs = inputs.to(dtype)
    if channels_last and inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def lay_out(network: nn.Module, channels_last: bool) -> None:
    """Store the weights of convolutions of images that way, or in the ordinary one; in place."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def prefers_channels_last(network: nn.Module) -> bool:
    """On a CPU: oneDNN's kernels for it are the faster ones, most of all for few channels."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return any(module.weight.device.type == "cpu" for module in convolutions)


def with_channels_last(run: Run) -> None:
    """Lay out the weights of those convolutions of images that are still called as they are."""
    for at, module in run.modules.items():
        if isinstance(module, nn.Conv2d) and run.calls[at] is module:
            run.calls[at] = _convolution(module, module.weight, module.bias, True)


def folded(
    program: Program, modules: Mapping[int, nn.Module]
) -> Iterator[tuple[int, int, Folding]]:
    """Steps of a convolution or linear map and of the batch-norm that alone reads it."""
    for at, module in modules.items():
        reader = program.only_reader(at)
        norm = None if reader is None else modules.get(reader)
        if reader is None or not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        once = {program.steps[at].target, program.steps[reader].target} <= program.called_once
        # A linear map of another width is followed by a norm of another dimension.
        width = module.out_features if isinstance(module, nn.Linear) else norm.num_features
        if once and isinstance(module, Folding) and width == norm.num_features:
            yield at, reader, module


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch-norm with running statistics does in eval mode: `x * scale + shift`.

    Returns:
        `(channels,)` each.
    """
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{type(norm).__name__} has no running statistics")
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _convolution(
    module: Convolution, weight: Tensor, bias: Tensor | None, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if channels_last and weight.dim() == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return partial(module._conv_forward, weight=weight, bias=bias)


def _same(x: Tensor) -> Tensor:
    return x
