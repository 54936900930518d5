"""Networks that are dear to analyse, though their files are small and nothing is wrong in them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.sketch import Sketch
from espalier.format.ir import Batch, Graph
from espalier.format.package import write_package
from espalier.format.safetensors_header import size_bytes


def package(graph: Graph, path: Path) -> Path:
    """Write a graph with weights that are all zero."""
    weights = {name: bytes(size_bytes(stored)) for name, stored in graph.stored.items()}
    return write_package(path, {"name": "made by hand"}, graph, weights)


def _packed(graph: Graph) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return package(graph, Path(folder) / "bomb.espalier").read_bytes()


def outer_product(dims: int, groups: int) -> Graph:
    """One tensor, each of whose sizes is the sum of many groups: as many terms as it has elements.

    The file is small; the terms grow with the power `dims` of its size.
    """
    s = Sketch()
    x = s.input(1)
    sides = []
    for dim in range(dims):
        layers = [s.linear(x, 2, bias=False) for _ in range(groups)]
        shape = [1] * dims
        shape[dim] = 2 * groups
        sides.append(s.reshape(s.op("cat", *layers, dim=1), Batch(), *shape))
    for side in sides[1:]:
        sides[0] = s.op("mul", sides[0], side)
    return s.graph(s.linear(x, 4))  # an output would never be cut


def all_alive(nodes: int) -> Graph:
    """As many tensors alive at once as there are nodes, all of them outputs."""
    s = Sketch()
    x = s.linear(s.input(1), 2)
    return s.graph(*(s.op("relu", x) for _ in range(nodes)))


def all_alive_then_summed(nodes: int) -> Graph:
    """As many tensors alive at once as there are nodes, until the sum of all of them."""
    s = Sketch()
    x = s.linear(s.input(1), 2)
    copies = [s.op("relu", x) for _ in range(nodes)]
    for copy in copies[1:]:
        copies[0] = s.op("add", copies[0], copy)
    return s.graph(s.linear(copies[0], 3))


def _chain(layers: int) -> Graph:
    """A chain of layers, each with a channel group of its own."""
    s = Sketch()
    x = s.input(1)
    for _ in range(layers + 1):
        x = s.linear(x, 2, bias=False)
    return s.graph(s.linear(x, 4, bias=False))


def _wide_sums(layers: int) -> Graph:
    """Concatenations of all layers so far, read by the next: `layers ** 2` blocks."""
    s = Sketch()
    outputs = [s.linear(s.input(1), 2, bias=False)]
    for _ in range(layers - 1):
        stack = s.op("cat", *outputs, dim=1) if len(outputs) > 1 else outputs[0]
        outputs.append(s.linear(stack, 2, bias=False))
    return s.graph(s.linear(outputs[-1], 4, bias=False))


def _shuffles(rounds: int) -> Graph:
    """A wide tensor whose channels are shuffled again and again."""
    s = Sketch()
    x = s.linear(s.input(1), 4096, bias=False)
    for _ in range(rounds):
        x = s.permute(s.reshape(x, Batch(), 64, 64), 0, 2, 1)
        x = s.reshape(x, Batch(), 4096)
    return s.graph(s.linear(x, 4, bias=False))


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "broadcast, 160 groups in 3 dimensions": lambda: _packed(outer_product(3, 160)),
    "broadcast, 2,000 groups in 2 dimensions": lambda: _packed(outer_product(2, 2000)),
    "broadcast, 24 groups in 5 dimensions": lambda: _packed(outer_product(5, 24)),
    "10,000 outputs": lambda: _packed(all_alive(10_000)),
    "9,990 tensors alive": lambda: _packed(all_alive_then_summed(9_990)),
    "3,000 groups in a chain": lambda: _packed(_chain(3_000)),
    "400 layers, each reading all before": lambda: _packed(_wide_sums(400)),
    "2,000 shuffles of 4,096 channels": lambda: _packed(_shuffles(2_000)),
}
"""Packages by what makes them dear; each is made when it is called."""
