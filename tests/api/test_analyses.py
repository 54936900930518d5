"""The analyses that the service keeps take bounded memory, and each is made once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from api.analysis import Analyses, Analysis
from benchmarks.sketch import Sketch


def analysis(width: int) -> Analysis:
    """Of a network with `width` channels, in rows, bias and columns."""
    s = Sketch()
    return Analysis.of(s.graph(s.linear(s.op("relu", s.linear(s.input(2), width)), 1)))


def test_what_is_kept_is_bounded_by_its_size() -> None:
    made: list[str] = []

    def get(name: str, width: int) -> Analysis:
        def make() -> Analysis:
            made.append(name)
            return analysis(width)

        return analyses.get(name, make)

    size_bytes = analysis(100).size_bytes
    assert size_bytes > 110 * 3 * 100
    analyses = Analyses(size_bytes=5 * size_bytes // 2)
    for name in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b, which was asked for first
        assert get(name, 100).size_bytes == size_bytes
    assert made == ["a", "b", "c", "b"]
    get("larger than all together", 10_000)
    get("larger than all together", 10_000)
    assert made[4:] == ["larger than all together"] * 2


def test_many_requests_make_one_analysis() -> None:
    made, analyses = [], Analyses()
    together = threading.Barrier(8)

    def make() -> Analysis:
        made.append(1)
        return analysis(10)

    def get(_: int) -> Analysis:
        together.wait(60)
        return analyses.get("one", make)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(get, range(8)))
    assert made == [1]
    assert all(each is found[0] for each in found)
