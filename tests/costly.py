"""More networks that are dear to examine, beside those of `benchmarks.attack.networks`."""

from __future__ import annotations

from benchmarks.sketch import Sketch
from espalier.format.ir import Graph


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


def many_layers(layers: int) -> Graph:
    s = Sketch()
    x = s.input(1)
    return s.graph(*(s.linear(s.linear(x, 2), 1) for _ in range(layers)))


def many_reads() -> Graph:
    """Each of 280 layers reads up to 280 others."""
    s = Sketch()
    x = s.input(1)
    first = [s.linear(x, 2) for _ in range(280)]
    second = [s.linear(s.op("cat", *first[i:], dim=1), 2) for i in range(279)]
    return s.graph(s.linear(s.op("cat", *second, dim=1), 4))
