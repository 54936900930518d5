"""A network run step by step, each step on all batches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from search.evaluation.inference import laid_out, prefers_channels_last
from search.evaluation.program import Run


class Walk:
    """Runs a network's steps one at a time; keeps what is still to be read.

    Steps may be run in any order in which each comes after those that it reads.

    Args:
        batches: inputs `(n, ...)` of a network with one input.

    Attributes:
        reads: by step, in the order of the code, the steps whose values it reads; all by name.
        stored: the steps that give a tensor of the network's own.
    """

    def __init__(self, network: fx.GraphModule, batches: Sequence[Tensor] = ()) -> None:
        self._run = Run(network)
        last = prefers_channels_last(network)
        self._batches = [self._run.begin(laid_out(batch, last)) for batch in batches]
        program = self._run.program
        self._steps = program.steps
        self._place = {step.name: at for at, step in enumerate(self._steps)}
        self.stored = {step.name for step in self._steps if step.kind == "get_attr"}
        self._unread = [len(readers) for readers in program.readers]
        self.reads = {
            step.name: [self._steps[at].name for at in step.reads] for step in self._steps
        }

    def step(self, name: str) -> None:
        """Run a step, and let go of what nothing will read any more."""
        at = self._place[name]
        if self._steps[at].kind != "placeholder":
            call, reads = self._run.calls[at], self._steps[at].reads
            for batch in self._batches:
                batch[at] = call(*[batch[source] for source in reads])
        self._let_go(at)

    def borrow(self, name: str, other: Walk) -> None:
        """Take a step's values from another walk instead of running it."""
        at, there = self._place[name], other._place[name]
        for batch, theirs in zip(self._batches, other._batches, strict=True):
            batch[at] = theirs[there]
        self._let_go(at)

    def _let_go(self, at: int) -> None:
        for source in self._steps[at].reads:
            self._unread[source] -= 1
        for gone in (at, *self._steps[at].reads):
            if not self._unread[gone]:
                for batch in self._batches:
                    batch[gone] = None

    def join(self, other: Walk) -> None:
        """Take in the batches of a walk through the same network that has run the same steps."""
        self._batches += other._batches

    def values(self, name: str) -> list[Tensor]:
        """A step's tensors, one a batch."""
        return [batch[self._place[name]] for batch in self._batches]

    def holds(self, name: str) -> bool:
        """Whether a step's tensors are there: it has run, and not all of its readers have."""
        return all(batch[self._place[name]] is not None for batch in self._batches)
