"""The graph of a network, as data: what `graph.json` holds and what every analysis reads.

A graph is a list of nodes in topological order. Each node yields exactly one tensor: operators
with several results (chunk, split, unbind) are stored as slices, so that nothing downstream has
to know tuples. Nothing here imports torch, and nothing here executes anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Batch:
    """A dimension that is `factor` times the batch size (heads folded into the batch, say)."""

    factor: int = 1


Dim = int | Batch
Scalar = bool | int | float | str | None
Attr = Scalar | tuple[Dim | float, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of one tensor; `dtype` is torch's name without the prefix."""

    shape: tuple[Dim, ...]
    dtype: str = "float32"

    def per_example(self) -> int:
        """Number of elements for a batch of one."""
        return math.prod(size(dim) for dim in self.shape)


def size(dim: Dim) -> int:
    """The dimension's size for a batch of one."""
    return dim.factor if isinstance(dim, Batch) else dim


def _frozen(values: Mapping[str, Attr]) -> Mapping[str, Attr]:
    return MappingProxyType(dict(values))


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the closed module table: its kind and its constructor's arguments."""

    kind: str
    args: Mapping[str, Attr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _frozen(self.args))

    def __reduce__(self) -> tuple[object, ...]:  # the view of `args` cannot be pickled
        return Module, (self.kind, dict(self.args))


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in `weights.safetensors`: a parameter, or a buffer (statistics, constants).

    Attributes:
        trainable: whether it is a parameter.
        frozen: a parameter that training leaves as it is (`requires_grad` is false).
        persistent: whether the original's `state_dict` has it; parameters always are.
    """

    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    frozen: bool = False
    persistent: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the network.

    `op` is `"input"` (no inputs), `"tensor"` (a stored tensor used directly; `target` names it),
    `"module"` (`target` is the module's path) or a key of the operator table. `inputs` name the
    nodes whose tensors it reads, in the operator's order; everything else is in `attrs`.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    target: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", _frozen(self.attrs))

    def __reduce__(self) -> tuple[object, ...]:  # the view of `attrs` cannot be pickled
        return Node, (self.name, self.op, self.inputs, dict(self.attrs), self.target)


@dataclass(frozen=True, slots=True)
class Graph:
    """A network without its numbers.

    Attributes:
        nodes: in an order in which they can run.
        modules: by dotted path, as in the original network, in the order of its registration.
        stored: by name, as in the original network's `state_dict`, and in its order.
        inputs: types of the `input` nodes, by node name, in the order of `forward`'s arguments.
        outputs: names of the nodes that are returned.
        single: whether `forward` returns the one output itself rather than a tuple.
    """

    nodes: tuple[Node, ...]
    modules: Mapping[str, Module]
    stored: Mapping[str, Stored]
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    single: bool = True

    def __deepcopy__(self, memo: dict[int, object]) -> Graph:
        """A graph is a value: copies of a network share it."""
        return self

    def module_of(self, node: Node) -> Module:
        """The module that a `"module"` node calls."""
        if node.target is None:
            raise KeyError(f"node {node.name} calls no module")
        return self.modules[node.target]

    def kind_of(self, node: Node) -> str:
        """The module's kind for a module call, the operator's name otherwise."""
        return self.module_of(node).kind if node.op == "module" else node.op

    def calls(self) -> Iterator[tuple[Node, Module]]:
        """Every call of a module, with the module."""
        for node in self.nodes:
            if node.op == "module":
                yield node, self.module_of(node)
