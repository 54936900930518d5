"""What a plan costs: exact, and fast enough to be asked a million times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.cost.activations import ITEM_BYTES, steps
from search.cost.macs import macs_of
from search.cost.polynomial import (
    EXACT,
    Floats,
    Maximum,
    Polynomial,
    Sum,
    magnitude,
    product,
    total,
    with_one,
)
from search.cost.terms import NetworkTooLarge, Terms
from search.space import Plan, SearchSpace

NAMES = ("macs", "params", "weight_bytes", "peak_activation_bytes")
"""The costs that follow from the plan alone."""

_ROWS = 4096  # plans at once: their factors stay in the cache


class CostModel:
    """The costs of a network's plans.

    * `macs`: multiply-accumulates of convolutions, linear maps, matrix products and attention,
      for one example; normalisations, element-wise operators and pooling are not counted.
    * `params`: elements of the trainable stored tensors.
    * `weight_bytes`: bytes of all stored tensors, buffers included.
    * `peak_activation_bytes`: the largest sum of activations alive at once for one example in
      inference, views counted with what they look at (`activations`); no operator's scratch.

    Every one of them grows with every group, so the narrowest plan is the cheapest in all.

    Args:
        space: the network and its channel groups.

    Attributes:
        terms: what it took to count.

    Raises:
        NetworkTooLarge: a cost of the full network reaches 2**53, or takes too much to count.
    """

    names = NAMES

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._full = space.full
        self._evaluators: dict[str, Callable[[Floats], Floats]] = {}
        self._polynomials: dict[str, tuple[Polynomial, ...]] = {}
        stored = space.graph.stored
        shapes = space.stored_shapes
        terms = self.terms = Terms()
        self._sum("macs", (macs_of(space, node, terms) for node in space.graph.nodes))
        elements = (product(1, shapes[name], terms) for name in stored if stored[name].trainable)
        self._sum("params", elements)
        held = (product(ITEM_BYTES[stored[name].dtype], shapes[name], terms) for name in stored)
        self._sum("weight_bytes", held)
        self._largest("peak_activation_bytes", steps(space, terms))
        self.full = MappingProxyType(self.of(self._full))

    def _sum(self, name: str, parts: Iterable[Polynomial]) -> None:
        polynomial = total(parts)
        self._check_exact(name, [polynomial])
        self._polynomials[name] = (polynomial,)
        self._evaluators[name] = Sum(polynomial, len(self._full), self.terms)

    def _largest(self, name: str, parts: list[Polynomial]) -> None:
        evaluator = Maximum(parts, len(self._full), self.terms)
        self._check_exact(name, evaluator.kept)
        self._polynomials[name] = tuple(evaluator.kept)
        self._evaluators[name] = evaluator

    def _check_exact(self, name: str, parts: Iterable[Polynomial]) -> None:
        bound = max(magnitude(part, self._full) for part in parts)
        if bound >= EXACT:
            raise NetworkTooLarge(
                f"{name} of the network is about {bound:.3g}, and costs are counted exactly only "
                f"below {EXACT} (2**53): use a smaller input"
            )

    def polynomials(self, name: str) -> tuple[Polynomial, ...]:
        """What a cost is in the plan: one polynomial, or several of which the largest counts.

        No coefficient is negative.

        Raises:
            KeyError: there is no cost of that name.
        """
        return self._polynomials[name]

    def of(self, plan: Plan) -> dict[str, int]:
        """Every cost of one plan, by name.

        Raises:
            ValueError: the plan does not fit the groups.
        """
        return {name: int(values[0]) for name, values in self.many([plan]).items()}

    def many(
        self, plans: ArrayLike, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Costs of many plans.

        Args:
            plans: `(P, G)` integers, the channels kept per group.
            names: which costs; all by default.

        Returns:
            `(P,)` integers by name.

        Raises:
            ValueError: the plans do not fit the groups.
        """
        table = np.asarray(plans)
        if table.shape == (0,):
            table = np.empty((0, len(self._full)), np.int64)
        self._check(table)
        wanted = tuple(self.names if names is None else names)
        costs = {name: np.empty(len(table), np.int64) for name in wanted}
        for start in range(0, len(table), _ROWS):
            rows = slice(start, start + _ROWS)
            factors = with_one(table[rows])
            for name in wanted:
                costs[name][rows] = self._evaluators[name](factors)
        return costs

    def _check(self, table: NDArray[np.int64]) -> None:
        groups = len(self._full)
        if table.ndim != 2 or table.shape[1] != groups:
            raise ValueError(f"plans of shape {table.shape} do not fit {groups} groups")
        if table.size and not np.issubdtype(table.dtype, np.integer):
            raise ValueError(f"a plan holds whole numbers of channels, not {table.dtype}")
        outside = (table < 1) | (table > np.array(self._full))
        if outside.any():
            row, group = np.argwhere(outside)[0]
            raise ValueError(
                f"plan {row} keeps {table[row, group]} channels of group {group}, "
                f"which has {self._full[group]}"
            )
