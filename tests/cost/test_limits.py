"""Networks whose costs would take too much to count are refused before they are counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.attack.networks import all_alive, all_alive_then_summed, outer_product
from benchmarks.sketch import Sketch
from espalier.format.ir import Graph
from search.cost import CostModel, NetworkTooLarge
from search.cost.polynomial import Polynomial, undominated
from search.cost.terms import TERMS, Terms
from search.graph import space_of
from tests.costly import many_layers
from tests.counting import counting


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: outer_product(2, 800), "terms"),
        (lambda: outer_product(3, 90), "terms"),
        (lambda: outer_product(5, 14), "terms"),
        (lambda: many_layers(2100), "2101 x 2101 coefficients"),
    ],
    ids=["two dimensions", "three", "five", "groups"],
)
def test_what_takes_too_much_to_count_is_refused(make: Callable[[], Graph], count: str) -> None:
    space = space_of(make())
    with (
        counting() as counter,
        pytest.raises(NetworkTooLarge, match=f"{count}.*above.*limit.*use"),
    ):
        CostModel(space)
    assert counter.calls < 4 * TERMS


@pytest.mark.parametrize("make", [all_alive, all_alive_then_summed])
def test_the_work_grows_with_the_nodes_and_not_with_what_is_alive(
    make: Callable[[int], Graph],
) -> None:
    spent = {nodes: CostModel(space_of(make(nodes))).terms.spent for nodes in (1000, 2000)}
    assert spent[2000] < 2.1 * spent[1000]


def test_the_peak_is_that_of_all_that_is_alive() -> None:
    """50 copies of 2 numbers beside what the layer made, then beside their sum."""
    for make in (all_alive, all_alive_then_summed):
        found = CostModel(space_of(make(50))).full["peak_activation_bytes"]
        assert found == 4 * 2 * (50 + 1)


def test_undominated_is_that_by_every_pair() -> None:
    generator = np.random.default_rng(0)
    monomials = [(), (0,), (1,), (0, 1)]
    for _ in range(200):
        rows = generator.integers(0, 3, (6, 4)).tolist()
        items: list[Polynomial] = [
            {m: n for m, n in zip(monomials, row, strict=True) if n} for row in rows
        ]
        maximal = [
            a
            for a, row in zip(items, rows, strict=True)
            if not any(
                other != row and all(x >= y for x, y in zip(other, row, strict=True))
                for other in rows
            )
        ]
        found = undominated(items, Terms())
        assert {frozenset(a.items()) for a in maximal} == {frozenset(a.items()) for a in found}


def test_comparisons_are_counted() -> None:
    """No polynomial of these is above another: each would be compared with all before it."""
    items: list[Polynomial] = [{(0,): 1 + a, (1,): 2000 - a} for a in range(2000)]
    with pytest.raises(NetworkTooLarge):
        undominated(items, Terms())
    assert len(undominated(items[:100], Terms())) == 100


def test_large_networks_are_within_the_limits() -> None:
    """As many concatenations as in DenseNet-201's third block, where each reads all before it."""
    s = Sketch()
    parts = [s.conv(s.input(3, 2, 2), 64)]
    for _ in range(48):
        x = s.op("relu", s.norm(s.op("cat", *parts, dim=1) if len(parts) > 1 else parts[0]))
        parts.append(s.conv(s.op("relu", s.norm(s.conv(x, 128))), 32))
    space = space_of(s.graph(s.linear(s.pool(s.op("cat", *parts, dim=1)), 10)))
    assert CostModel(space).terms.spent < TERMS / 5
    assert len(space.groups) == 97
