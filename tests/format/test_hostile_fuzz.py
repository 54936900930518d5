"""Mutated packages: a typed error or a sound network, with bounded work and memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.attack.packages import hostile
from espalier.format.build import load
from espalier.format.errors import EspalierError
from tests.counting import counting


@pytest.mark.parametrize("seed", range(5))
def test_fuzz(seed: int, members: dict[str, bytes], tmp_path: Path) -> None:
    source = random.Random(seed)
    path = tmp_path / "fuzzed.espalier"
    refused: list[str] = []
    tracemalloc.start()
    try:
        for turn in range(160):
            path.write_bytes(hostile(members, source, turn))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with counting() as counter:
                try:
                    load(path)
                except EspalierError as error:
                    refused.append(str(error))
            assert counter.calls < 100_000, f"mutation {turn}"
            assert tracemalloc.get_traced_memory()[1] - before < 2**24, f"mutation {turn}"
    finally:
        tracemalloc.stop()
    assert len(refused) > 120
    assert max(map(len, refused)) < 2_000
