"""Divides examples among splits class by class, so that each split is made up as the whole is.

A split's size goes to the classes in proportion to their examples. What is left of the fractions is
drawn systematically (Cochran 1977, "Sampling Techniques", 8.1): a class gets its share rounded up
or down, and every example has the same chance to be in the split. A class that is too rare for a
share of one gets an example in each split all the same, as long as it has any and the split has
room for all such classes; the others then get less, in proportion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Whole = np.ndarray[Any, np.dtype[np.int64]]


def stratified(
    labels: Whole, sizes: Mapping[str, int], first: Sequence[str], random: np.random.Generator
) -> dict[str, Whole]:
    """Disjoint places of examples for each split.

    Args:
        labels: `(n,)` class numbers.
        sizes: of the splits, by name; `n` at most together.
        first: names of the splits that get the few examples of a rare class, in this order.
    """
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = random.permutation(len(labels))
    order = order[np.argsort(of[order], kind="stable")]  # class by class, at random within each
    begins = np.cumsum(counts) - counts
    wanted = _wanted(counts, sizes, first)
    taken = np.zeros_like(counts)
    found: dict[str, Whole] = {}
    for name, size in sizes.items():
        least = wanted.pop(name)
        most = counts - taken - sum(wanted.values(), start=np.zeros_like(counts))
        now = _shares(size, counts - taken, least, most, random)
        parts = zip(begins + taken, begins + taken + now, strict=True)
        found[name] = np.concatenate([order[a:b] for a, b in parts]).astype(np.int64)
        taken += now
    return found


def _wanted(counts: Whole, sizes: Mapping[str, int], first: Sequence[str]) -> dict[str, Whole]:
    """How many examples of each class a split is to have at least: 0 or 1, by split."""
    wanted = {name: np.zeros_like(counts) for name in sizes}
    served = np.zeros_like(counts)
    for name in first:
        able = counts > served
        if name in sizes and np.count_nonzero(able) <= sizes[name]:
            wanted[name] = able.astype(np.int64)
            served += wanted[name]
    return wanted


def _shares(
    size: int, counts: Whole, least: Whole, most: Whole, random: np.random.Generator
) -> Whole:
    """How many of `size` examples each class gives: in proportion to `counts`, within bounds."""
    low, high = 0.0, float(max(1, size))
    for _ in range(100):  # to the last digit of a float
        factor = (low + high) / 2
        if np.clip(factor * counts, least, most).sum() < size:
            low = factor
        else:
            high = factor
    exact = np.clip(high * counts, least, most)
    whole: Whole = np.floor(exact + 1e-9).astype(np.int64)
    order = random.permutation(len(counts))
    begin = random.integers(2**20) / 2**20  # short, so that the points are exact
    points = begin + np.arange(size - int(whole.sum()))
    if len(points):
        order = order[(exact - whole)[order] > 0]
        edges = np.cumsum((exact - whole)[order])
        picked = np.searchsorted(edges, points, side="right")
        whole[order[np.minimum(picked, len(order) - 1)]] += 1
    return whole
