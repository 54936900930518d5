"""Channel positions as atoms, and what ties them: unions, and atoms that must stay.

An atom is an integer that stands for one position along one dimension. Rules only *record* that
atoms belong together; the classes are computed at once, so that cost grows with the number of
positions and not with the number of operators.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from espalier.format.errors import EspalierError

IntArray = NDArray[np.int64]

LIMIT = 8_000_000
"""Atoms, labels and unions that one analysis may hold, some tens of bytes each; a ViT-L needs a
quarter of it, a ViT-H less than half."""

READ = 250
"""Positions that take as long as one tensor that a node reads."""

MEMBER = 20
"""Positions that take as long as one group's part of a stored tensor."""

TERM = 4
"""Positions that take as much memory as one group's share of one dimension."""


class TooManyPositions(EspalierError):
    """A network whose coupling would take more memory than is allowed."""

    code = "graph.limit"


def components(parent: IntArray, left: IntArray, right: IntArray) -> IntArray:
    """`(vertices,)` the smallest vertex of each vertex's component.

    Args:
        parent: `(vertices,)` the components known so far, in the same form.
        left, right: edges to add.
    """
    parent = parent.copy()
    while True:
        # every root that sees a smaller root hangs itself below it, then paths are shortened
        roots, others = parent[left], parent[right]
        apart = roots != others
        if not apart.any():
            return parent
        left, right = left[apart], right[apart]
        roots, others = roots[apart], others[apart]
        np.minimum.at(parent, np.maximum(roots, others), np.minimum(roots, others))
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above


class Atoms:
    """Allocates atoms and records unions, atoms that stay, and the roles atoms play."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.count = 0
        self.reasons: list[str] = []
        self._limit = limit
        self._spent = 0
        self._unions: list[tuple[IntArray, IntArray]] = []
        self._classes: IntArray = np.arange(0, dtype=np.int64)
        self._fixed: list[tuple[IntArray, int]] = []

    def spend(self, positions: int) -> None:
        """Account for memory and time before they are taken.

        Raises:
            TooManyPositions: the network needs more than the limit.
        """
        self._spent += positions
        if self._spent > self._limit:
            raise TooManyPositions(
                f"the coupling of this network's channels takes {self._spent} positions or more, "
                f"above the limit of {self._limit}: use smaller images, or a network with fewer or "
                "narrower layers, or layers that read fewer others"
            )

    def fresh(self, count: int) -> IntArray:
        """`(count,)` new atoms."""
        self.spend(count)
        self.count += count
        return np.arange(self.count - count, self.count, dtype=np.int64)

    def unite(self, left: IntArray, right: IntArray) -> None:
        """Tie the atoms of two arrays of equal shape, position by position."""
        if left is right:
            return
        self.spend(left.size)
        self._unions.append((left.ravel(), right.ravel()))

    def unite_along(self, atoms: IntArray, axis: int) -> None:
        """Tie all atoms that differ only in their position along `axis`."""
        if atoms.shape[axis] > 1:
            first = atoms.take([0], axis=axis)
            self.unite(np.broadcast_to(first, atoms.shape), atoms)

    def fix(self, atoms: IntArray, reason: str) -> None:
        """Atoms that stay, and why (words that follow "N channels stay: ")."""
        self.spend(atoms.size)
        self._fixed.append((atoms.ravel(), len(self.reasons)))
        self.reasons.append(reason)

    def classes(self) -> IntArray:
        """`(count,)` the smallest atom of each atom's class."""
        known = self._classes
        parent = np.concatenate([known, np.arange(len(known), self.count, dtype=np.int64)])
        if self._unions:
            left = np.concatenate([a for a, _ in self._unions])
            right = np.concatenate([b for _, b in self._unions])
            self._unions = []
            parent = components(parent, left, right)
        self._classes = parent
        return parent

    def stay(self, classes: IntArray) -> IntArray:
        """`(count,)` by class: index of the first reason why it stays, -1 where it may go."""
        none = len(self.reasons)
        first = np.full(self.count, none, dtype=np.int64)
        for atoms, reason in self._fixed:
            np.minimum.at(first, classes[atoms], reason)
        first[first == none] = -1
        return first
