"""A network run node by node over many batches at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx


class Walk:
    """Runs a network's nodes one at a time, each on all batches; keeps what is still to be read.

    Args:
        batches: inputs `(n, ...)` of a network with one input.
    """

    def __init__(self, network: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self.nodes = {node.name: node for node in network.graph.nodes}
        self._runs = []
        for batch in batches:
            run = fx.Interpreter(network, garbage_collect_values=False)
            run.args_iter = iter((batch,))
            self._runs.append(run)
        self._left = {node: len(node.users) for node in network.graph.nodes}

    def step(self, name: str) -> None:
        """Run a node, and let go of what nothing will read any more."""
        node = self.nodes[name]
        for run in self._runs:
            run.env[node] = run.run_node(node)
        self._release(node)

    def borrow(self, name: str, other: Walk) -> None:
        """Take a node's values from another walk instead of running it."""
        node, theirs = self.nodes[name], other.nodes[name]
        for run, source in zip(self._runs, other._runs, strict=True):
            run.env[node] = source.env[theirs]
        self._release(node)

    def values(self, name: str) -> list[Tensor]:
        """A node's tensors, one a batch."""
        return [run.env[self.nodes[name]] for run in self._runs]

    def holds(self, name: str) -> bool:
        """Whether a node's tensors are there: it has run, and not all of its readers have."""
        return all(self.nodes[name] in run.env for run in self._runs)

    def _release(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._left[source] -= 1
            if not self._left[source]:
                for run in self._runs:
                    run.env.pop(source, None)
