"""Tensors whose dimensions carry atoms, and how atoms travel when tensors change shape.

A *block* gives an atom to every position of one dimension, or of several dimensions at once where
a labelled dimension was split. Blocks of one tensor never share a dimension; a dimension without
a block is never cut. Blocks never cover dimensions of size one. All shapes are for one example.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.graph.atoms import Atoms, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Atoms over `dims` (ascending); `atoms` has one axis for each of them."""

    dims: tuple[int, ...]
    atoms: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A tensor as the analysis sees it.

    Attributes:
        shape: sizes for one example.
        blocks: its labels.
        constant: whether it is made from stored tensors alone.
        given: whether it is the network's input, or tied to it; for explanations only.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    constant: bool = False
    given: bool = False

    def block_at(self, dim: int) -> Block | None:
        """The block that covers a dimension."""
        return next((block for block in self.blocks if dim in block.dims), None)

    def only(self, dims: Iterable[int]) -> tuple[Block, ...]:
        """The blocks that lie within the given dimensions."""
        allowed = set(dims)
        return tuple(block for block in self.blocks if allowed.issuperset(block.dims))


def take(array: IntArray, axis: int, index: int) -> IntArray:
    """The part of an array at one index of an axis."""
    part: IntArray = np.moveaxis(array, axis, 0)[index]
    return part


def pin_block(atoms: Atoms, block: Block, dim: int, reason: str) -> Block | None:
    """The block after promising that `dim` is never cut.

    Alone, its atoms stay. Together with others, its atoms are tied along it: whole slices of the
    other dimensions may still go.
    """
    if len(block.dims) == 1:
        atoms.fix(block.atoms, reason)
        return None
    axis = block.dims.index(dim)
    atoms.unite_along(block.atoms, axis)
    dims = block.dims[:axis] + block.dims[axis + 1 :]
    return Block(dims, take(block.atoms, axis, 0))


def pin(atoms: Atoms, value: Labelled, dims: Iterable[int], reason: str) -> Labelled:
    """The tensor after promising that none of `dims` is cut."""
    blocks = list(value.blocks)
    for dim in dims:
        for index, block in enumerate(blocks):
            if dim in block.dims:
                left = pin_block(atoms, block, dim, reason)
                blocks[index : index + 1] = [] if left is None else [left]
                break
    return replace(value, blocks=tuple(blocks))


def fix(atoms: Atoms, value: Labelled, reason: str) -> Labelled:
    """The tensor with all its labelled positions staying."""
    for block in value.blocks:
        atoms.fix(block.atoms, reason)
    return replace(value, blocks=())


def line(atoms: Atoms, value: Labelled, dim: int, reason: str) -> tuple[Labelled, IntArray | None]:
    """The atoms of one dimension by itself; a split dimension is pinned and gives none."""
    block = value.block_at(dim)
    if block is None:
        return value, None
    if len(block.dims) == 1:
        return value, block.atoms
    return pin(atoms, value, [dim], reason), None


def relabelled(value: Labelled, dim: int, atoms: IntArray | None) -> Labelled:
    """The tensor with other labels on one dimension."""
    blocks = [block for block in value.blocks if dim not in block.dims]
    if atoms is not None and len(atoms) > 1:
        blocks.append(Block((dim,), atoms))
    return replace(value, blocks=tuple(blocks))


# --- changes of shape ---------------------------------------------------------------------------


def permute(value: Labelled, order: Sequence[int]) -> Labelled:
    place = {old: new for new, old in enumerate(order)}
    blocks = []
    for block in value.blocks:
        dims = [place[dim] for dim in block.dims]
        axes = sorted(range(len(dims)), key=dims.__getitem__)
        array = block.atoms if len(dims) == 1 else block.atoms.transpose(axes)
        blocks.append(Block(tuple(sorted(dims)), array))
    return replace(value, shape=tuple(value.shape[i] for i in order), blocks=tuple(blocks))


def without_dims(value: Labelled, gone: Iterable[int]) -> Labelled:
    """The tensor after unlabelled dimensions were reduced away."""
    lost = set(gone)
    left = [dim for dim in range(len(value.shape)) if dim not in lost]
    place = {old: new for new, old in enumerate(left)}
    blocks = tuple(Block(tuple(place[d] for d in b.dims), b.atoms) for b in value.blocks)
    return replace(value, shape=tuple(value.shape[d] for d in left), blocks=blocks)


def lifted(value: Labelled, rank: int) -> Labelled:
    """The tensor with dimensions of size one in front, as broadcasting adds them."""
    extra = rank - len(value.shape)
    if not extra:
        return value
    blocks = tuple(Block(tuple(d + extra for d in b.dims), b.atoms) for b in value.blocks)
    return replace(value, shape=(1,) * extra + value.shape, blocks=blocks)


def factors(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The least groups of dimensions of equal product that a reshape maps onto each other."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        left, right = [i], [j]
        p, q = source[i], target[j]
        while p != q:
            if p < q:
                i += 1
                left.append(i)
                p *= source[i]
            else:
                j += 1
                right.append(j)
                q *= target[j]
        found.append((left, right))
        i, j = i + 1, j + 1
    return found  # what is left over on either side has size one


def compact(dims: Sequence[int], array: IntArray) -> Block:
    """A block without the dimensions along which its atoms do not change."""
    kept = list(dims)
    for axis in reversed(range(array.ndim)):
        if array.ndim == 1:
            break
        first = array.take([0], axis=axis)
        if array.shape[axis] == 1 or bool((array == first).all()):
            array = take(array, axis, 0)
            del kept[axis]
    return Block(tuple(kept), array)


def spread(block: Block, dims: Sequence[int], shape: Sequence[int]) -> IntArray:
    """The block's atoms over more dimensions, without copying; `dims` hold the block's own."""
    own = [size if dim in block.dims else 1 for dim, size in zip(dims, shape, strict=True)]
    return np.broadcast_to(block.atoms.reshape(own), tuple(shape))


def reshape(atoms: Atoms, value: Labelled, target: Sequence[int], where: str) -> Labelled:
    groups = factors(value.shape, target)
    group_of = {dim: index for index, (left, _) in enumerate(groups) for dim in left}
    touched = [sorted({group_of[dim] for dim in block.dims}) for block in value.blocks]
    owners = [sum(index in each for each in touched) for index in range(len(groups))]
    blocks = []
    for block, indices in zip(value.blocks, touched, strict=True):
        if any(owners[index] > 1 for index in indices):
            atoms.fix(block.atoms, f"{where} merges them with other channels into one dimension")
            continue
        left = [dim for index in indices for dim in groups[index][0]]
        right = [dim for index in indices for dim in groups[index][1]]
        sizes = [target[dim] for dim in right]
        proper = [(dim, size) for dim, size in zip(right, sizes, strict=True) if size > 1]
        if [size for _, size in proper] == list(block.atoms.shape):
            blocks.append(Block(tuple(dim for dim, _ in proper), block.atoms))
            continue
        atoms.spend(math.prod(sizes))
        array = spread(block, left, [value.shape[dim] for dim in left]).reshape(sizes)
        blocks.append(compact([dim for dim, _ in proper], array.reshape([s for _, s in proper])))
    return replace(value, shape=tuple(target), blocks=tuple(blocks))


# --- two tensors --------------------------------------------------------------------------------


def _pin_all(atoms: Atoms, block: Block, dims: Iterable[int], reason: str) -> list[Block]:
    """What is left of a block (one or none) when none of `dims` is cut."""
    left = [block]
    for dim in dims:
        left = [rest for b in left if (rest := pin_block(atoms, b, dim, reason)) is not None]
    return left


def _tie(
    atoms: Atoms, sides: tuple[Labelled, Labelled], pair: tuple[Block, Block], reason: str
) -> list[Block]:
    """Labels of the result where a block of each tensor overlap."""
    left, right = sides
    # A dimension that the other tensor has at full size, but never cuts, is not cut here either.
    outer = [d for d in pair[0].dims if d not in pair[1].dims and right.shape[d] != 1]
    inner = [d for d in pair[1].dims if d not in pair[0].dims and left.shape[d] != 1]
    (a,) = _pin_all(atoms, pair[0], outer, reason)
    (b,) = _pin_all(atoms, pair[1], inner, reason)
    shared = [dim for dim in a.dims if dim in b.dims]
    # What is split and meets labels of its inner part only (heads x head size against a table of
    # rotary angles) keeps its outer part as the unit; otherwise the inner part follows.
    if a.dims[0] not in shared or b.dims[0] not in shared:
        return _pin_all(atoms, a, shared, reason) + _pin_all(atoms, b, shared, reason)
    (a,) = _pin_all(atoms, a, [dim for dim in a.dims if dim not in shared], reason)
    (b,) = _pin_all(atoms, b, [dim for dim in b.dims if dim not in shared], reason)
    atoms.unite(a.atoms, b.atoms)
    return [a]


def _clusters(blocks: list[tuple[Block, int]]) -> list[list[tuple[Block, int]]]:
    """Blocks that overlap, directly or through others, in the order of their dimensions."""
    found: list[tuple[set[int], list[tuple[Block, int]]]] = []
    for item in blocks:
        dims, members = set(item[0].dims), [item]
        apart = []
        for cluster in found:
            if cluster[0].isdisjoint(dims):
                apart.append(cluster)
            else:
                dims |= cluster[0]
                members = cluster[1] + members
        found = [*apart, (dims, members)]
    return [members for _, members in sorted(found, key=lambda cluster: min(cluster[0]))]


def join(atoms: Atoms, left: Labelled, right: Labelled, where: str) -> Labelled:
    """Two tensors that meet element by element, with broadcasting: equal positions are tied."""
    rank = max(len(left.shape), len(right.shape))
    left, right = lifted(left, rank), lifted(right, rank)
    shape = tuple(max(pair) for pair in zip(left.shape, right.shape, strict=True))
    constant = left.constant and right.constant
    reason = f"{where} combines them with values that are never cut"
    if left.given or right.given:
        reason = f"{where} combines them with values that are tied to the network's input"
    result: list[Block] = []
    sides = [(block, 0) for block in left.blocks] + [(block, 1) for block in right.blocks]
    for cluster in _clusters(sides):
        ours = [block for block, side in cluster if side == 0]
        theirs = [block for block, side in cluster if side == 1]
        if len(ours) == len(theirs) == 1:
            result += _tie(atoms, (left, right), (ours[0], theirs[0]), reason)
        elif len(cluster) == 1:
            other = right if ours else left
            block = cluster[0][0]
            met = [dim for dim in block.dims if other.shape[dim] != 1]
            result += _pin_all(atoms, block, met, reason)
        else:
            for block, _ in cluster:
                atoms.fix(block.atoms, f"{where} combines them along two dimensions at once")
    return Labelled(shape, tuple(result), constant, left.given or right.given)
