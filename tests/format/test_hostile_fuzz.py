"""Mutated packages: a typed error or a sound network, with bounded work and memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from espalier.format.build import load
from espalier.format.errors import EspalierError
from tests.counting import counting
from tests.format.handmade import MEMBERS, archive, sealed


def _mutated(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed))
        kind = source.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del changed[at : at + source.randint(1, 40)]
        elif kind == 2:
            start = source.randrange(len(data))
            changed[at:at] = data[start : start + source.randint(1, 40)]
        else:
            changed[at : at + 1] = source.choice(
                [b"0", b"-1", b"null", b"[]", b'"', b"{", b"9" * 12]
            )
        if not changed:
            return b""
    return bytes(changed)


def _hostile(members: dict[str, bytes], source: random.Random, turn: int) -> bytes:
    """A package with mutations in the whole file, or in one member under right digests."""
    if turn % 4 == 0:
        return _mutated(archive(members), source)
    name = MEMBERS[turn % 4 - 1]
    changed = {**members, name: _mutated(members[name], source)}
    return archive(changed if name == "manifest.json" else sealed(changed))


@pytest.mark.parametrize("seed", range(5))
def test_fuzz(seed: int, members: dict[str, bytes], tmp_path: Path) -> None:
    source = random.Random(seed)
    path = tmp_path / "fuzzed.espalier"
    refused: list[str] = []
    tracemalloc.start()
    try:
        for turn in range(160):
            path.write_bytes(_hostile(members, source, turn))
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
