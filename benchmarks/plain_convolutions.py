"""The sweep of `search.evaluation.soundness` on networks trained as torch has it, as a child."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import Tensor, fx

from search.evaluation import soundness
from search.evaluation.inference import laid_out, lay_out


def plain(network: fx.GraphModule, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """The network itself, in that layout."""
    lay_out(network, channels_last)

    def call(inputs: Tensor) -> Tensor:
        result: Tensor = network(laid_out(inputs, channels_last))
        return result

    return call


if __name__ == "__main__":
    soundness.main(sys.argv[1:], plain)
