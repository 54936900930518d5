"""A sweep whose training is broken on purpose: one shape kills, one gives wrong gradients.

`python -m tests.evaluation.unsound` takes the arguments of `search.evaluation.soundness`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from torch import Tensor

from search.evaluation import soundness, training
from search.evaluation.inference import Convolution

KILLS, WRONG = (3, 1), (5, 8)  # channels and size that a convolution of kernel 1, stride 2 reads


def broken(module: Convolution) -> Callable[[Tensor], Tensor]:
    sound = _PICKED(module)

    def call(x: Tensor) -> Tensor:
        shape = module.in_channels, x.shape[-1]
        if shape == KILLS:
            os.kill(os.getpid(), signal.SIGSEGV)
        y = sound(x)
        if shape == WRONG:
            # Its output stays right; what goes back through it is a fifth too much.
            y.register_hook(lambda gradient: 1.2 * gradient)  # type: ignore[no-untyped-call]
        return y

    return call


_PICKED = training._picked
training._picked = broken

if __name__ == "__main__":
    soundness.main(sys.argv[1:])
