"""The form in which a network is trained: the same function and gradients, by sound kernels.

oneDNN (3.12, in torch 2.13) has kernels for the weight gradient of a convolution of kernel 1 and
stride above 1 that write past their workspace when channels come last and are fewer than a block of
its vectors (8 with AVX2, 16 with AVX-512): memory is corrupted, or the gradient is wrong
(https://github.com/uxlfoundation/oneDNN/issues/6035). A convolution of kernel 1 reads but every
s-th position, so here these are taken first, and a convolution of stride 1 follows, which has no
such kernel in any layout; a transposed one spreads its result afterwards. That also holds where a
network changes the layout itself, and where torch cannot tell the layout (one channel, one
position). `search.evaluation.soundness` checks these forms on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, fx, nn
from torch.nn import functional

from search.evaluation.inference import Convolution, laid_out, lay_out
from search.evaluation.program import Run, Values

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d


class Training(Run):
    """A network whose steps have sound gradients on a processor; of its own tensors.

    Args:
        network: whose modes decide, and whose weights are laid out in place.
        channels_last: whether images and the weights of their convolutions have channels last.
    """

    def __init__(self, network: fx.GraphModule, *, channels_last: bool) -> None:
        lay_out(network, channels_last)
        super().__init__(network)
        self._channels_last = channels_last
        for at, module in self.modules.items():
            if isinstance(module, Convolution) and _skips(module):
                self.calls[at] = _picked(module)
            elif isinstance(module, Transposed) and _skips(module):
                self.calls[at] = _spread(module)

    def begin(self, inputs: Tensor) -> Values:
        return super().begin(laid_out(inputs, self._channels_last))


def _skips(module: Convolution | Transposed) -> bool:
    return set(module.kernel_size) == {1} and set(module.stride) != {1}


def _every(module: Convolution | Transposed) -> tuple[slice, ...]:
    return (slice(None), slice(None), *(slice(None, None, step) for step in module.stride))


def _picked(module: Convolution) -> Callable[[Tensor], Tensor]:
    """Kernel 1: the positions that the stride leaves, and a convolution of stride 1."""
    taken = _every(module)
    convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[len(taken)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    pads = module._reversed_padding_repeated_twice

    def call(x: Tensor) -> Tensor:
        x = functional.pad(x, pads, mode) if any(pads) else x
        result: Tensor = convolve(x[taken], module.weight, module.bias, groups=module.groups)
        return result

    return call


def _spread(module: Transposed) -> Callable[[Tensor], Tensor]:
    """Kernel 1: a transposed convolution of stride 1, its results the stride apart, zeros between.

    `(n, c_in, *spatial)` to `(n, c_out, *((spatial - 1) * stride - 2 * padding + extra + 1))`.
    """
    taken = _every(module)
    convolve = {3: functional.conv_transpose1d, 4: functional.conv_transpose2d}[len(taken)]
    steps = module.stride
    padding = cast(tuple[int, ...], module.padding)  # never a word here
    # What padding takes away on both sides, `output_padding` gives back behind.
    crops = [
        amount
        for pad, extra in reversed(list(zip(padding, module.output_padding, strict=True)))
        for amount in (-pad, extra - pad)
    ]

    def call(x: Tensor) -> Tensor:
        found = convolve(x, module.weight, groups=module.groups)
        sizes = [(size - 1) * step + 1 for size, step in zip(found.shape[2:], steps, strict=True)]
        wide = found.new_zeros((*found.shape[:2], *sizes))
        wide[taken] = found
        wide = functional.pad(wide, crops)
        if module.bias is None:
            return wide
        return wide + module.bias.view(1, -1, *(1,) * len(steps))

    return call
