"""Small packages that are dear to analyse."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from espalier.format.ir import Attr, Batch, Graph, Module, Node, Stored, TensorType
from espalier.format.package import write_package


class _Sketch:
    """A graph that grows node by node from one input of one feature."""

    def __init__(self) -> None:
        self._nodes = [Node("x", "input")]
        self._modules: dict[str, Module] = {}
        self._stored: dict[str, Stored] = {}
        self._tensors: dict[str, NDArray[np.float32]] = {}

    def apply(self, op: str, *inputs: str, **attrs: Attr) -> str:
        """Add an operator; its node's name."""
        name = f"n{len(self._nodes)}"
        self._nodes.append(Node(name, op, inputs, attrs))
        return name

    def add(self, left: str, right: str) -> str:
        return self.apply("add", left, right, scalar=None, reversed=False)

    def linear(self, source: str, inputs: int, outputs: int) -> str:
        """Add a linear layer without bias, every weight 1."""
        name = f"n{len(self._nodes)}"
        self._nodes.append(Node(name, "module", (source,), target=f"{name}m"))
        arguments = {"in_features": inputs, "out_features": outputs, "bias": False}
        self._modules[f"{name}m"] = Module("Linear", arguments)
        self._stored[f"{name}m.weight"] = Stored((outputs, inputs), "float32", True)
        self._tensors[f"{name}m.weight"] = np.ones((outputs, inputs), np.float32)
        return name

    def package(self, *outputs: str) -> bytes:
        """The package of what was built."""
        graph = Graph(
            tuple(self._nodes),
            self._modules,
            self._stored,
            {"x": TensorType((Batch(), 1))},
            outputs,
            len(outputs) == 1,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = write_package(Path(folder) / "bomb", {"name": "bomb"}, graph, self._tensors)
            return path.read_bytes()


def _broadcast(groups: int, dims: int) -> bytes:
    """Stacks of narrow layers along several dimensions, multiplied: `groups ** dims` monomials."""
    sketch = _Sketch()
    product = ""
    for dim in range(dims):
        parts = [sketch.linear("x", 1, 2) for _ in range(groups)]
        stack = sketch.apply("cat", *parts, dim=1)
        sizes = [2 * groups if at == dim else 1 for at in range(dims)]
        stack = sketch.apply("reshape", stack, shape=(Batch(), *sizes))
        if product:
            stack = sketch.apply("mul", product, stack, scalar=None, reversed=False)
        product = stack
    return sketch.package(sketch.linear("x", 1, 4))


def _all_alive(nodes: int) -> bytes:
    """Every one of many tensors is alive to the end: a live set of `nodes` at each of them."""
    sketch = _Sketch()
    source = sketch.linear("x", 1, 2)
    made = [sketch.apply("relu", source) for _ in range(nodes)]
    total = made.pop()
    while made:
        total = sketch.add(total, made.pop())
    return sketch.package(sketch.linear(total, 2, 4))


def _many_outputs(nodes: int) -> bytes:
    sketch = _Sketch()
    source = sketch.linear("x", 1, 2)
    return sketch.package(*(sketch.apply("relu", source) for _ in range(nodes)))


def _many_groups(layers: int) -> bytes:
    """A chain of layers, each with a channel group of its own."""
    sketch = _Sketch()
    last = sketch.linear("x", 1, 2)
    for _ in range(layers):
        last = sketch.linear(last, 2, 2)
    return sketch.package(sketch.linear(last, 2, 4))


def _wide_sums(layers: int) -> bytes:
    """Concatenations of all layers so far, read by the next: `layers ** 2` blocks."""
    sketch = _Sketch()
    made = [sketch.linear("x", 1, 2)]
    for count in range(1, layers):
        stack = sketch.apply("cat", *made, dim=1) if count > 1 else made[0]
        made.append(sketch.linear(stack, 2 * count, 2))
    return sketch.package(sketch.linear(made[-1], 2, 4))


def _shuffles(rounds: int) -> bytes:
    """A wide tensor whose channels are shuffled again and again."""
    sketch = _Sketch()
    last = sketch.linear("x", 1, 4096)
    for _ in range(rounds):
        last = sketch.apply("reshape", last, shape=(Batch(), 64, 64))
        last = sketch.apply("permute", last, dims=(0, 2, 1))
        last = sketch.apply("reshape", last, shape=(Batch(), 4096))
    return sketch.package(sketch.linear(last, 4096, 4))


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "broadcast, 160 groups in 3 dimensions": lambda: _broadcast(160, 3),
    "broadcast, 2,000 groups in 2 dimensions": lambda: _broadcast(2000, 2),
    "broadcast, 24 groups in 5 dimensions": lambda: _broadcast(24, 5),
    "10,000 outputs": lambda: _many_outputs(10_000),
    "9,990 tensors alive": lambda: _all_alive(9_990),
    "3,000 groups in a chain": lambda: _many_groups(3_000),
    "400 layers, each reading all before": lambda: _wide_sums(400),
    "2,000 shuffles of 4,096 channels": lambda: _shuffles(2_000),
}
"""Packages by what makes them dear; each is made when it is called."""
