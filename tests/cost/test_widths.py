"""Which widths are kept, from times of kernels whose staircase is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest

from search.cost.widths import MULTIPLES, preferred, probes

# Microseconds of 3x3 convolutions c to c at 16 pixels in onnxruntime, blocks of 8 (AVX2), as they
# were measured, and of 1x1 convolutions at 14 pixels, whose steps are flatter.
MEASURED = {8: 12, 10: 22, 14: 33, 16: 24, 22: 61, 24: 39, 30: 91, 32: 62, 38: 133, 40: 119,
            48: 155, 56: 192, 62: 300, 64: 238}  # fmt: skip


def blocked(block: int, odd: float = 1.5, fixed: float = 3.0) -> Callable[[int], float]:
    """Channels are padded to blocks; where they are no multiple of 4 another kernel is taken."""
    return lambda width: fixed + math.ceil(width / block) * block * (odd if width % 4 else 1.0)


def kept(
    channels: int, seconds: Callable[[int], float], steps: Sequence[int] = MULTIPLES
) -> tuple[int, ...]:
    times = {
        width: (seconds(width), 0.5 * seconds(width) + 1.0) for width in probes(channels, steps)
    }
    return preferred(channels, steps, times)


@pytest.mark.parametrize("channels", [32, 64, 96])
@pytest.mark.parametrize("block", [4, 8, 16])
def test_in_blocks_their_multiples_are_kept_and_nothing_else(channels: int, block: int) -> None:
    found = kept(channels, blocked(block))
    assert found == tuple(range(block, channels + 1, block))


@pytest.mark.parametrize("block", [4, 8, 16])
def test_of_many_channels_steps_that_are_smaller_than_the_noise_are_not_told_apart(
    block: int,
) -> None:
    found = kept(512, blocked(block))
    assert set(range(16, 496, 16)) <= set(found) <= set(range(block, 513, block))


def test_a_kernel_that_takes_every_channel_alike_keeps_every_width() -> None:
    assert kept(24, lambda width: 1.0 + width) == tuple(range(1, 25))


def test_a_full_width_that_is_no_multiple_stays_a_choice() -> None:
    found = kept(61, blocked(16))
    assert found[-1] == 61
    assert set(found[:-1]) <= {16, 32, *range(48, 61, 4)}


def test_noise_of_a_few_percent_changes_nothing() -> None:
    chance = random.Random(0)

    def noisy(seconds: Callable[[int], float]) -> Callable[[int], float]:
        return lambda width: seconds(width) * chance.uniform(1, 1.02)

    for channels, block in itertools.product((32, 64, 128), (8, 16)):
        for _ in range(20):
            found = kept(channels, noisy(blocked(block)))
            assert found == tuple(range(block, channels + 1, block))


def test_where_width_hardly_matters_only_faster_wider_ones_count() -> None:
    """Overhead takes nearly all of the time: what is a little slower by chance is still kept."""
    assert kept(32, lambda width: 100 + 0.01 * width) == tuple(range(1, 33))
    slow_odd = kept(32, lambda width: 100 + 0.01 * width + 20 * (width % 4 > 0))
    assert slow_odd == tuple(range(4, 33, 4))


def test_a_width_is_kept_if_it_is_fast_at_one_width_of_the_neighbours() -> None:
    widths = probes(32, MULTIPLES)
    stepped = blocked(16)
    times = {width: (stepped(width), 1.0 + width) for width in widths}
    assert set(range(2, 33, 2)) <= set(preferred(32, MULTIPLES, times))


def test_heads_and_other_channels_that_are_many_are_rounded_by_what_they_make() -> None:
    """A head of 24 channels is a multiple of 8; where blocks are larger, every second one is."""
    steps = (1, 1, 1, 1, 2)
    assert kept(12, lambda heads: blocked(8)(24 * heads), steps) == tuple(range(1, 13))
    assert kept(12, lambda heads: blocked(48)(24 * heads), steps) == (2, 4, 6, 8, 10, 12)


def test_the_steps_that_were_measured_on_a_processor() -> None:
    times = {width: (float(t),) for width, t in MEASURED.items()}
    found = preferred(64, MULTIPLES, times)
    assert set(found) >= {16, 24, 32, 40, 48, 56, 64}
    assert not set(found) & {14, 15, 22, 23, 30, 31, 38, 62, 63}


@pytest.mark.parametrize("channels", range(1, 70))
def test_probes_and_choices_end_at_the_full_width(channels: int) -> None:
    widths = probes(channels, MULTIPLES)
    assert widths[-1] == channels
    assert all(0 < a < b for a, b in itertools.pairwise(widths))
    assert len(widths) <= 20
    found = kept(channels, blocked(8))
    assert found[-1] == channels
    assert set(found) <= set(range(1, channels + 1))
