"""From coupled positions to the search space: groups, sizes that follow from the plan, reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from espalier.format.ir import Batch, Graph
from search.graph.atoms import MEMBER, TERM, IntArray
from search.graph.constants import module_constants, node_constants
from search.graph.context import Span
from search.graph.couple import Coupling, couple, varying
from search.graph.labels import Block, take
from search.space import Affine, ChannelGroup, Exclusion, Extent, Member, SearchSpace

ALONE = "they can only be kept or removed all together"
UNMADE = "no layer makes them"


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """Classes that may go, sorted into groups.

    Attributes:
        group: `(atoms,)` by class: index of its group, -1 where it stays.
        rank: `(atoms,)` by class: the channel's index within its group.
        channels: of each group.
        first: of each group, the first atom that a layer makes.
    """

    group: IntArray
    rank: IntArray
    channels: list[int]
    first: list[int]


class _Lines:
    """Single dimensions of blocks, as lists of classes."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._marks = coupling.marks
        self._axes: dict[int, int | None] = {}

    def axis(self, block: Block) -> int | None:
        """The axis of the block that may lose positions."""
        if len(block.dims) == 1:
            return 0
        key = id(block.atoms)
        if key not in self._axes:
            axes = varying(self._marks, block)
            stays = bool((self._marks[block.atoms] == -1).all())
            self._axes[key] = axes[0] if axes else None if stays else 0
        return self._axes[key]

    def line(self, block: Block, dim: int) -> IntArray | None:
        """Classes along one dimension of a block; none if it is never cut."""
        axis = self.axis(block)
        return None if axis is None or block.dims[axis] != dim else self._along(block, axis)

    def _along(self, block: Block, axis: int, part: slice = slice(None)) -> IntArray:
        atoms = block.atoms
        for other in reversed(range(atoms.ndim)):
            if other != axis:
                atoms = take(atoms, other, 0)
        return self._coupling.classes[atoms[part]]

    def span(self, span: Span) -> IntArray | None:
        """Classes of some positions of a dimension; none if it is never cut."""
        axis = self.axis(span.block)
        if axis is None or span.block.dims[axis] != span.dim:
            return None
        return self._along(span.block, axis, slice(span.start, span.stop))

    def all(self) -> Iterator[IntArray]:
        """Every line whose length has to follow from the plan, each once."""
        context = self._coupling.context
        for atoms in context.stored.values():
            yield self._coupling.classes[atoms]
        seen = {id(atoms) for atoms in context.stored.values()}
        for value in self._coupling.values.values():
            for block in value.blocks:
                if id(block.atoms) in seen:
                    continue
                seen.add(id(block.atoms))
                axis = self.axis(block)
                if axis is not None:
                    yield self._along(block, axis)
        for span in context.spans.values():
            line = self.span(span)
            if line is not None and len(line):
                yield line


def _footprints(lines: Iterable[IntArray], stays: NDArray[np.bool_]) -> IntArray:
    """`(atoms,)` by class: equal numbers for classes with equally many positions in every line."""
    key = np.zeros(len(stays), dtype=np.int64)
    used = 1
    for line in lines:
        roots, counts = np.unique(line[~stays[line]], return_counts=True)
        if not len(roots):
            continue
        pairs = key[roots] * (int(counts.max()) + 1) + counts
        names, index = np.unique(pairs, return_inverse=True)
        key[roots] = used + index
        used += len(names)
    return key


def _units(coupling: Coupling, lines: _Lines, reasons: dict[int, str]) -> _Units:
    """Sort the classes into groups; `reasons` learns why further classes stay."""
    context, classes = coupling.context, coupling.classes
    count = context.atoms.count
    stays = coupling.stay >= 0
    made = np.full(count, count, dtype=np.int64)
    for atoms in context.produced:
        np.minimum.at(made, classes[atoms.ravel()], atoms.ravel())
    key = _footprints(lines.all(), stays)
    roots = np.flatnonzero((classes == np.arange(count)) & ~stays)
    for root in roots[made[roots] == count].tolist():
        reasons[root] = UNMADE
    roots = roots[made[roots] < count]
    roots = roots[np.argsort(made[roots], kind="stable")]
    group = np.full(count, -1, dtype=np.int64)
    rank = np.zeros(count, dtype=np.int64)
    names, start, index, sizes = np.unique(
        key[roots], return_index=True, return_inverse=True, return_counts=True
    )
    del names
    place = np.full(len(sizes), -1, dtype=np.int64)
    channels: list[int] = []
    first: list[int] = []
    for which in np.argsort(start, kind="stable").tolist():
        root = int(roots[start[which]])
        if sizes[which] == 1:
            reasons[root] = ALONE
            continue
        place[which] = len(channels)
        channels.append(int(sizes[which]))
        first.append(int(made[root]))
    group[roots] = place[index]
    order = np.argsort(index, kind="stable")
    begins = np.cumsum(sizes) - sizes
    rank[roots[order]] = np.arange(len(roots)) - np.repeat(begins, sizes)
    return _Units(group, rank, channels, first)


def _layer(tensor: str) -> str:
    """A layer's name, from that of its stored tensor."""
    head, _, tail = tensor.rpartition(".")
    return head if tail in ("weight", "bias") and head else tensor


class SpaceBuilder:
    """Turns one coupling into a search space."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.coupling = couple(graph)
        self.reasons: dict[int, str] = {}
        self.lines = _Lines(self.coupling)
        self.units = _units(self.coupling, self.lines, self.reasons)
        self._sizes: dict[tuple[int, int], Affine] = {}
        self.stored = {
            key: atoms
            for key, atoms in self.coupling.context.stored.items()
            if key[0] in graph.stored
        }
        count = self.coupling.context.atoms.count
        self.produced = np.zeros(count, dtype=bool)
        self.consumed = np.zeros(count, dtype=bool)
        for flags, marked in (
            (self.produced, self.coupling.context.produced),
            (self.consumed, self.coupling.context.consumed),
        ):
            for atoms in marked:
                flags[atoms.ravel()] = True

    def affine(self, line: IntArray) -> Affine:
        """The length of a line of classes."""
        counts = np.bincount(self.units.group[line] + 1)
        self.coupling.context.atoms.spend(TERM * int(np.count_nonzero(counts[1:])))
        terms = tuple(
            (group, int(counts[group + 1]) // self.units.channels[group])
            for group in (np.flatnonzero(counts[1:])).tolist()
        )
        return Affine(int(counts[0]) if len(counts) else 0, terms)

    def size(self, block: Block, dim: int) -> Affine | None:
        """A labelled dimension's size; none if it is never cut."""
        key = (id(block.atoms), block.dims.index(dim))
        if key not in self._sizes:
            line = self.lines.line(block, dim)
            length = block.atoms.shape[key[1]]
            self._sizes[key] = Affine(length) if line is None else self.affine(line)
        return self._sizes[key]

    def span(self, span: Span) -> Affine:
        line = self.lines.span(span)
        size = Affine(span.stop - span.start) if line is None else self.affine(line)
        terms = tuple((group, span.sign * positions) for group, positions in size.terms)
        return Affine(span.sign * size.constant, terms)

    def node_shape(self, name: str) -> tuple[Extent, ...]:
        value = self.coupling.values[name]
        extents = []
        for index, dim in enumerate(self.coupling.context.types[name].shape):
            block = value.block_at(index)
            size = None if block is None else self.size(block, index)
            extents.append(Extent(size or Affine(value.shape[index]), isinstance(dim, Batch)))
        return tuple(extents)

    def stored_shape(self, tensor: str) -> tuple[Affine, ...]:
        sizes = []
        for dim, length in enumerate(self.graph.stored[tensor].shape):
            atoms = self.stored.get((tensor, dim))
            block = None if atoms is None else Block((0,), atoms)
            sizes.append((block and self.size(block, 0)) or Affine(length))
        return tuple(sizes)

    def groups(self) -> tuple[ChannelGroup, ...]:
        members: list[list[Member]] = [[] for _ in self.units.channels]
        names: list[str] = [""] * len(members)
        classes = self.coupling.classes
        for (tensor, dim), atoms in self.stored.items():
            roots = classes[atoms]
            owners = self.units.group[roots]
            order = np.lexsort((self.units.rank[roots], owners))
            owners = owners[order]
            cuts = np.flatnonzero(np.diff(owners)) + 1
            self.coupling.context.atoms.spend(MEMBER * len(cuts))
            for where in np.split(order, cuts):
                group = int(self.units.group[roots[where[0]]])
                if group < 0:
                    continue
                table = where.reshape(self.units.channels[group], -1)
                positions = tuple(tuple(row) for row in table.tolist())
                role = self._role(atoms[where])
                members[group].append(Member(tensor, dim, positions, role))
                if self.units.first[group] in atoms[where]:
                    names[group] = _layer(tensor)
        seen: dict[str, int] = {}
        result = []
        for name, channels, where_ in zip(names, self.units.channels, members, strict=True):
            seen[name] = seen.get(name, 0) + 1
            unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
            result.append(ChannelGroup(unique, channels, tuple(where_)))
        return tuple(result)

    def _role(self, atoms: IntArray) -> str:
        if self.produced[atoms].any():
            return "produces"
        return "consumes" if self.consumed[atoms].any() else "follows"

    def excluded(self) -> tuple[Exclusion, ...]:
        """What layers make and what stays, told once where it is made first."""
        texts, stay = self.coupling.context.atoms.reasons, self.coupling.stay
        told: set[int] = set()
        found: dict[tuple[str, str], int] = {}
        for (tensor, _), atoms in self.stored.items():
            if not self.produced[atoms].any():
                continue
            roots = self.coupling.classes[atoms[self.units.group[self.coupling.classes[atoms]] < 0]]
            kinds, counts = np.unique(roots, return_counts=True)
            for root, count in zip(kinds.tolist(), counts.tolist(), strict=True):
                if root in told:
                    continue
                told.add(root)
                reason = texts[stay[root]] if stay[root] >= 0 else self.reasons[root]
                key = (_layer(tensor), reason)
                found[key] = found.get(key, 0) + count
        return tuple(Exclusion(name, count, reason) for (name, reason), count in found.items())


def space_of(graph: Graph) -> SearchSpace:
    """What can be pruned in a network, in the order of the network; deterministic.

    Raises:
        FormatError: the graph's shapes do not fit.
        TooManyPositions: the analysis would take too much memory.
    """
    builder = SpaceBuilder(graph)
    shapes = {node.name: builder.node_shape(node.name) for node in graph.nodes}
    stored = {name: builder.stored_shape(name) for name in graph.stored}
    context = builder.coupling.context
    layer_channels = {name: shapes[name][dim].size for name, dim in context.channel_dims.items()}
    spans = {key: builder.span(span) for key, span in context.spans.items()}
    arguments = {
        key: builder.affine(builder.coupling.classes[atoms])
        for key, atoms in context.stored.items()
        if key[0] not in graph.stored
    }
    return SearchSpace(
        graph=graph,
        groups=builder.groups(),
        excluded=builder.excluded(),
        node_shapes=shapes,
        stored_shapes=stored,
        layer_channels=layer_channels,
        node_constants=node_constants(graph, shapes, spans, context.types),
        module_constants=module_constants(graph, stored, arguments, context.grouped),
    )
