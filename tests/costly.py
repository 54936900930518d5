"""Packages whose examination is dear, though nothing is wrong with them."""

from __future__ import annotations

from pathlib import Path

from espalier.format.ir import Graph
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
