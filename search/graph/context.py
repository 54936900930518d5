"""What a coupling rule sees: the graph, its shapes, the atoms, and the stored tensors' labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from espalier.format.ir import Graph, Node, TensorType, size
from search.graph.atoms import Atoms, IntArray
from search.graph.labels import Block, Labelled


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Some positions of one dimension: what an index or a padding width of a node counts.

    Attributes:
        block: the block they belong to; `dim` is one of its dimensions.
        sign: -1 where the attribute counts positions that are taken away.
    """

    block: Block
    dim: int
    start: int
    stop: int
    sign: int = 1


@dataclass(slots=True, eq=False)
class Context:
    """State of one pass over a graph.

    Attributes:
        stored: atoms of the stored tensors by (tensor, dimension); shared by all who use them. A
            module's constructor argument that no stored tensor shows has an entry under
            (path + ":" + argument, dimension).
        spans: by (node, slot), what the node's attributes count (slot: index in `pads`, else 0).
        grouped: modules whose groups are removed whole; their `groups` shrinks.
        channel_dims: by node, the dimension whose positions its weights make.
    """

    graph: Graph
    types: Mapping[str, TensorType]
    atoms: Atoms = field(default_factory=Atoms)
    stored: dict[tuple[str, int], IntArray] = field(default_factory=dict)
    spans: dict[tuple[str, int], Span] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)
    channel_dims: dict[str, int] = field(default_factory=dict)
    produced: list[IntArray] = field(default_factory=list)
    consumed: list[IntArray] = field(default_factory=list)

    def shape(self, name: str) -> tuple[int, ...]:
        """A node's shape for one example."""
        return tuple(size(dim) for dim in self.types[name].shape)

    def axis(self, name: str, length: int) -> IntArray:
        """Atoms of a module's argument that no stored tensor shows."""
        return self._atoms(name, 0, length)

    def of(self, tensor: str, dim: int) -> IntArray | None:
        """Atoms of a stored tensor's dimension; none if it has size one."""
        length = self.graph.stored[tensor].shape[dim]
        return self._atoms(tensor, dim, length) if length > 1 else None

    def _atoms(self, name: str, dim: int, length: int) -> IntArray:
        found = self.stored.get((name, dim))
        if found is None:
            found = self.stored[name, dim] = self.atoms.fresh(length)
        return found

    def whole(self, tensor: str) -> Labelled:
        """A stored tensor used directly: every dimension labelled by itself."""
        shape = self.graph.stored[tensor].shape
        blocks = []
        for dim in range(len(shape)):
            atoms = self.of(tensor, dim)
            if atoms is not None:
                blocks.append(Block((dim,), atoms))
        return Labelled(tuple(shape), tuple(blocks), constant=True)

    def count(self, node: str, slot: int, span: Span) -> None:
        """Note positions that an attribute of a node counts."""
        self.atoms.spend(span.stop - span.start)
        self.spans[node, slot] = span

    def produces(self, atoms: IntArray | None) -> None:
        """Mark rows of a weight."""
        if atoms is not None:
            self.produced.append(atoms)

    def consumes(self, atoms: IntArray | None) -> None:
        """Mark columns of a weight."""
        if atoms is not None:
            self.consumed.append(atoms)

    def meet(self, left: IntArray | None, right: IntArray | None, reason: str) -> None:
        """Tie two dimensions of equal size; one that meets a dimension without atoms stays."""
        if left is not None and right is not None:
            self.atoms.unite(left, right)
        elif left is not None:
            self.atoms.fix(left, reason)
        elif right is not None:
            self.atoms.fix(right, reason)


Rule = Callable[[Context, Node, Sequence[Labelled]], Labelled]
"""Labels of a node's tensor from those of its inputs. Rules leave `shape` to the caller."""
