"""Graphs made to be costly or awkward: refused, or cut safely, with bounded work."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.sketch import Sketch
from espalier.format.ir import Batch, Graph
from espalier.format.operators import MODULES, OPERATORS
from search.graph import TooManyPositions, shrink, space_of
from search.graph.atoms import LIMIT, READ
from search.graph.couple import OPERATOR_RULES
from search.graph.rules_modules import MODULE_RULES
from tests.costly import many_reads
from tests.counting import counting


@contextmanager
def bounded_work(graph: Graph) -> Iterator[None]:
    """Sees that an analysis makes few calls for each node, and stays below 128 MiB."""
    tracemalloc.start()
    try:
        with counting() as counter:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counter.calls < 2000 * len(graph.nodes)
    assert peak < 2**27


def test_every_operator_and_module_has_a_rule() -> None:
    assert OPERATOR_RULES.keys() == OPERATORS.keys()
    assert MODULE_RULES.keys() == MODULES.keys()


def doubling() -> Graph:
    s = Sketch()
    x = s.conv(s.input(3, 1, 1), 64)
    for _ in range(24):
        x = s.op("cat", x, x, dim=1)
    return s.graph(x)


def wide_table() -> Graph:
    s = Sketch()
    x = s.conv(s.input(3, 4000, 4000), 64)
    return s.graph(s.reshape(x, Batch(), 64 * 4000 * 4000))


def many_wide_layers() -> Graph:
    s = Sketch()
    x = s.input(100_000)
    for _ in range(200):
        x = s.linear(x, 100_000)
    return s.graph(x)


def many_views() -> Graph:
    """Little is ever copied, but every view would be looked at."""
    s = Sketch()
    x = s.reshape(s.linear(s.input(4), 2**15), Batch(), *(2,) * 15)
    for _ in range(400):
        x = s.permute(x, 0, *range(2, 16), 1)
    return s.graph(x)


def many_indices() -> Graph:
    s = Sketch()
    x = s.linear(s.input(4), 100_000)
    return s.graph(*(s.slice(x, 1, 99_990, 100_000) for _ in range(200)))


@pytest.mark.parametrize("make", [doubling, wide_table, many_wide_layers, many_views, many_indices])
def test_what_would_take_too_much_memory_is_refused(make: Callable[[], Graph]) -> None:
    graph = make()
    with bounded_work(graph), pytest.raises(TooManyPositions, match="positions"):
        space_of(graph)


def test_what_reads_too_many_others_is_refused() -> None:
    graph = many_reads()
    read = sum(len(node.inputs) for node in graph.nodes)
    assert read * READ > LIMIT
    with pytest.raises(TooManyPositions, match="read fewer others"):
        space_of(graph)


def endless_shuffles() -> Graph:
    """Splits that never agree, each of which ties what the last one left."""
    s = Sketch()
    x = s.conv(s.input(3, 1, 1), 5040)
    for turn in range(300):
        parts = (2, 3, 4, 5, 6, 7, 8, 9, 10)[turn % 9]
        x = s.reshape(x, Batch(), parts, 5040 // parts, 1, 1)
        x = s.reshape(s.permute(x, 0, 2, 1, 3, 4), Batch(), 5040, 1, 1)
    return s.graph(s.linear(s.pool(x), 3))


def long_chain_of_sums() -> Graph:
    s = Sketch()
    x = s.input(3, 1, 1)
    parts = [s.conv(x, 256) for _ in range(400)]
    total = parts[0]
    for part in parts[1:]:
        total = s.op("add", part, total)
    return s.graph(s.linear(s.pool(total), 3))


def many_slices() -> Graph:
    s = Sketch()
    x = s.conv(s.input(3, 1, 1), 1000)
    cut = [s.slice(x, 1, i, 1000) for i in range(0, 998)]
    return s.graph(s.linear(s.pool(s.op("cat", *cut, dim=1)), 3))


@pytest.mark.parametrize("make", [endless_shuffles, long_chain_of_sums, many_slices])
def test_awkward_graphs_take_bounded_work(make: Callable[[], Graph]) -> None:
    graph = make()
    with bounded_work(graph):
        space = space_of(graph)
    shrink(space, tuple((0,) for _ in space.groups))


def test_a_cut_that_is_none_is_refused() -> None:
    s = Sketch()
    out = s.linear(s.pool(s.conv(s.input(3, 4, 4), 4, path="a")), 2)
    space = space_of(s.graph(out))
    for kept in ((), ((),), ((4,),), ((-1,),), ((1, 0),), ((1, 1),), ((0,), (0,))):
        with pytest.raises(ValueError, match=r"group a keeps|entries for 1"):
            shrink(space, kept)
