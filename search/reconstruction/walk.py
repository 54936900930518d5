"""A network run step by step, each step on all batches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from espalier.format.build import graph_of
from espalier.format.operators import infer
from search.evaluation.inference import laid_out, prefers_channels_last
from search.evaluation.program import Run, program_of


class Walk:
    """Runs a network's steps one at a time; keeps what is still to be read.

    Args:
        batches: inputs `(n, ...)` of a network with one input.

    Attributes:
        reads: by step, in order, the steps whose values it reads; all by name.
    """

    def __init__(self, network: fx.GraphModule, batches: Sequence[Tensor] = ()) -> None:
        self._run = Run(network)
        last = prefers_channels_last(network)
        self._batches = [self._run.begin(laid_out(batch, last)) for batch in batches]
        steps = self._run.program.steps
        self._place = {step.name: at for at, step in enumerate(steps)}
        self.reads = {step.name: [steps[at].name for at in step.reads] for step in steps}

    def step(self, name: str) -> None:
        """Run a step, and let go of what nothing will read any more."""
        at = self._place[name]
        for batch in self._batches:
            self._run.advance(batch, at, at + 1)

    def borrow(self, name: str, other: Walk) -> None:
        """Take a step's values from another walk instead of running it."""
        at, there = self._place[name], other._place[name]
        for batch, theirs in zip(self._batches, other._batches, strict=True):
            batch[at] = theirs[there]
            for gone in self._run.program.drops[at]:
                batch[gone] = None

    def join(self, other: Walk) -> None:
        """Take in the batches of a walk through the same network that has come as far."""
        self._batches += other._batches

    def values(self, name: str) -> list[Tensor]:
        """A step's tensors, one a batch."""
        return [batch[self._place[name]] for batch in self._batches]

    def holds(self, name: str) -> bool:
        """Whether a step's tensors are there: it has run, and not all of its readers have."""
        return all(batch[self._place[name]] is not None for batch in self._batches)


def live_bytes(network: fx.GraphModule) -> list[int]:
    """By step, the most that a walk holds at it or later, of one example in float32."""
    program, types = program_of(network), infer(graph_of(network))
    elements = [
        types[step.name].per_example() if step.name in types else 0 for step in program.steps
    ]
    held = [
        4 * (elements[at] + sum(elements[live] for live in program.live(at)))
        for at in range(len(elements))
    ]
    return [max(held[at:]) for at in range(len(held))]
