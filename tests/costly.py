"""Networks that are dear to examine, though their files are small and nothing is wrong in them."""

from __future__ import annotations

from pathlib import Path

from espalier.format.ir import Batch, Graph
from espalier.format.package import write_package
from espalier.format.safetensors_header import size_bytes
from tests.graph.sketch import Sketch


def package(graph: Graph, path: Path) -> Path:
    """Written with weights that are all zero."""
    weights = {name: bytes(size_bytes(stored)) for name, stored in graph.stored.items()}
    return write_package(path, {"name": "made by hand"}, graph, weights)


def long_chain(nodes: int) -> Graph:
    """Takes processor time."""
    s = Sketch()
    x = s.linear(s.input(4), 4)
    for _ in range(nodes):
        x = s.op("relu", x)
    return s.graph(s.linear(x, 3))


def wide_layer(width: int) -> Graph:
    """Takes memory: each position is told apart."""
    s = Sketch()
    return s.graph(s.linear(s.op("relu", s.linear(s.input(1), width)), 1))


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


def many_layers(layers: int) -> Graph:
    s = Sketch()
    x = s.input(1)
    return s.graph(*(s.linear(s.linear(x, 2), 1) for _ in range(layers)))


def all_alive(nodes: int) -> Graph:
    """As many tensors alive at once as there are nodes, all of them outputs."""
    s = Sketch()
    x = s.linear(s.input(1), 2)
    return s.graph(*(s.op("relu", x) for _ in range(nodes)))


def all_alive_then_summed(nodes: int) -> Graph:
    s = Sketch()
    x = s.linear(s.input(1), 2)
    copies = [s.op("relu", x) for _ in range(nodes)]
    for copy in copies[1:]:
        copies[0] = s.op("add", copies[0], copy)
    return s.graph(s.linear(copies[0], 3))


def many_reads() -> Graph:
    """Each of 280 layers reads up to 280 others."""
    s = Sketch()
    x = s.input(1)
    first = [s.linear(x, 2) for _ in range(280)]
    second = [s.linear(s.op("cat", *first[i:], dim=1), 2) for i in range(279)]
    return s.graph(s.linear(s.op("cat", *second, dim=1), 4))
