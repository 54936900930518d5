"""`espalier.timing` on a simulated machine, whose times are known."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import pytest

from espalier.runtimes.base import Clock, Runnable
from espalier.timing import (
    DRIFT,
    NARROW,
    WIDE,
    attains,
    interleaved,
    median_interval,
    paired,
    passes_for,
)

PASS_S = 0.001


@dataclass
class Machine:
    """What a stretch takes beside what it should, and who was asked in which order."""

    slowness: Callable[[float], float] = lambda now: 1.0  # noqa: ARG005
    now: float = 0.0
    order: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Simulated(Runnable):
    machine: Machine
    name: str
    pass_s: float

    def seconds(self, passes: int) -> float:
        self.machine.order.append(self.name)
        taken = passes * self.pass_s * self.machine.slowness(self.machine.now)
        self.machine.now += taken
        return taken


def simulated(machine: Machine, name: str, pass_s: float, clock: Clock = "thread") -> Simulated:
    return Simulated(lambda: None, lambda: np.zeros(1, np.float32), clock, machine, name, pass_s)


def pair(machine: Machine, ratio: float = 0.7) -> tuple[Simulated, Simulated]:
    return simulated(machine, "first", PASS_S), simulated(machine, "second", PASS_S * ratio)


def test_both_orders_come_alike_often() -> None:
    machine = Machine()
    paired(*pair(machine))
    blocks = _blocks(machine.order)
    assert set(blocks) == {
        ("first", "second", "second", "first"),
        ("second", "first", "first", "second"),
    }
    assert abs(blocks.count(("first", "second", "second", "first")) * 2 - len(blocks)) <= 1


def _blocks(order: list[str]) -> list[tuple[str, ...]]:
    """The blocks after the warm-up, which ends with the second network's."""
    warm = next(
        i for i in range(len(order)) if order[i : i + 4] == ["first", "second", "second", "first"]
    )
    body = order[warm:]
    return [tuple(body[i : i + 4]) for i in range(0, len(body), 4)]


def test_a_drift_falls_out_of_the_ratio() -> None:
    # A machine that becomes 20 % slower a second: unpaired, the second measured looks slower.
    timing = paired(*pair(Machine(lambda now: 1 + 0.2 * now)))
    assert timing.ratio == pytest.approx(0.7, rel=1e-3)
    assert timing.before_s > 1.01 * PASS_S
    assert not timing.unreliable


def test_blocks_where_the_reference_drifts_are_discarded() -> None:
    draw = random.Random(0)

    def slowness(now: float) -> float:  # noqa: ARG001
        return draw.choice([1.0, 1.0, 1.0, 1.0, 3.0])

    timing = paired(*pair(Machine(slowness)))
    assert timing.ratio == pytest.approx(0.7, rel=1e-9)
    assert timing.low == timing.high == timing.ratio
    assert not timing.unreliable


def test_the_interval_covers_the_truth_and_measuring_ends_when_it_is_narrow() -> None:
    covered, blocks = [], []
    for seed in range(150):
        draw = random.Random(seed)
        timing = paired(*pair(Machine(lambda now: math.exp(draw.gauss(0, 0.01)))))  # noqa: ARG005, B023
        assert timing.high - timing.low <= NARROW * timing.ratio
        covered.append(timing.low <= 0.7 <= timing.high)
        blocks.append(timing.blocks)
    assert sum(covered) >= 0.95 * len(covered)
    assert median(blocks) < 60


def test_a_noisy_machine_is_called_so() -> None:
    draw = random.Random(0)
    timing = paired(*pair(Machine(lambda now: draw.uniform(1, 3))), most_s=0.2)  # noqa: ARG005
    assert timing.unreliable
    assert timing.low <= timing.ratio <= timing.high


def test_too_few_blocks_are_unreliable_however_alike() -> None:
    timing = paired(*pair(Machine()), most_s=0)
    assert (timing.blocks, timing.unreliable) == (1, True)


def test_times_by_different_clocks_have_no_ratio() -> None:
    machine = Machine()
    with pytest.raises(ValueError, match="have no ratio"):
        paired(simulated(machine, "a", PASS_S), simulated(machine, "b", PASS_S, "wall"))


@pytest.mark.parametrize("n", [1, 5, 8, 15, 30, 101])
def test_the_interval_of_a_median_is_as_wide_as_binomial_probabilities_say(n: int) -> None:
    low, high = median_interval(range(n))
    assert low + high == n - 1
    # P(the median is below the k-th smallest) is that of fewer than k heads in n tosses.
    heads = [math.comb(n, i) / 2**n for i in range(n + 1)]
    outside = 2 * sum(heads[: int(low) + 1])
    assert attains(n) == (outside <= 0.01)
    if attains(n):
        assert outside + 2 * heads[int(low) + 1] > 0.01


def test_stretches_are_long_whatever_a_pass_takes() -> None:
    machine = Machine()
    assert passes_for(simulated(machine, "short", 1e-5), 0.005) == 500
    assert passes_for(simulated(machine, "long", 2.0), 0.005) == 1


def test_interleaved_times_are_the_least_and_none_meets_a_slow_time_alone() -> None:
    machine = Machine(lambda now: 1.0 if int(now * 50) % 3 else 2.0)
    made = [simulated(machine, str(i), 1e-4 * (i + 1)) for i in range(5)]
    assert interleaved(made) == pytest.approx([1e-4 * (i + 1) for i in range(5)])
    last = machine.order[-10:]
    assert last == last[::-1] == [*"43210", *"01234"]


def test_a_timing_is_plain_json() -> None:
    timing = paired(*pair(Machine()))
    assert timing.to_json() == dataclasses.asdict(timing)
    assert DRIFT < WIDE
