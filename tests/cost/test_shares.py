"""Shares of MACs and time, beside what is counted layer by layer."""

from __future__ import annotations

import pytest

from search.cost import Budget, CostModel
from search.cost.chains import Chain
from search.cost.shares import macs_around, shares_of
from search.cost.staircase import Probe
from search.graph import space_of
from tests.cost.test_rounding import concatenated, heads
from tests.cost.test_staircase import plain

PIXELS = 16 * 16
LAYERS = (9 * 3 * 32 * PIXELS, 9 * 32 * 64 * PIXELS, 9 * 64 * 48 * PIXELS, 48 * 10)
"""MACs of `plain(32, 64, 48)`."""


def test_macs_are_those_of_the_layers_that_make_or_read_a_group() -> None:
    space = space_of(plain(32, 64, 48))
    first, second, third, head = LAYERS
    assert macs_around(CostModel(space), space.full) == (
        first + second, second + third, third + head
    )  # fmt: skip


@pytest.mark.parametrize("graph", [plain(32, 64, 48), concatenated(), heads()])
def test_where_all_macs_take_as_long_the_time_has_the_shares_of_the_macs(graph: object) -> None:
    space = space_of(graph)  # type: ignore[arg-type]
    cost, probe = CostModel(space), Probe(space)
    seconds = {name: 1e-9 * chain.macs for name, chain in probe.chains.items()}
    stairs = probe.decide(seconds, cost, Budget({"macs": cost.full["macs"]})).stairs
    plans = [space.full, tuple(max(1, channels * 3 // 5) for channels in space.full)]
    for shares in shares_of(cost, stairs, plans):
        timed = [share for share in shares if share.time is not None]
        assert timed
        for share in timed:
            assert share.time == pytest.approx(share.macs)


def test_slow_layers_have_the_larger_share_of_the_time() -> None:
    """Layers that read three channels take ten times as long a MAC."""
    space = space_of(plain(32, 64, 48))
    cost, probe = CostModel(space), Probe(space)

    def rule(chain: Chain) -> float:
        return sum(layer.macs * (10 if layer.inputs == 3 else 1) for layer in chain.layers)

    seconds = {name: rule(chain) for name, chain in probe.chains.items()}
    stairs = probe.decide(seconds, cost, Budget({"macs": cost.full["macs"]})).stairs
    (shares,) = shares_of(cost, stairs, [space.full])
    first, second, third, head = LAYERS
    truth = (10 * first + second, second + third, third + head)
    macs = (first + second, second + third, third + head)
    for share, time in zip(shares, truth, strict=True):
        assert share.time == pytest.approx(time / sum(truth) * sum(macs) / cost.full["macs"])


def test_without_times_there_are_shares_of_macs() -> None:
    space = space_of(plain(32, 64, 48))
    (shares,) = shares_of(CostModel(space), (), [space.full])
    assert [share.time for share in shares] == [None, None, None]
    assert shares[0].macs == pytest.approx((LAYERS[0] + LAYERS[1]) / sum(LAYERS))
