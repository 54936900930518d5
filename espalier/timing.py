"""How long a network's pass takes, beside another's: paired, with an interval.

Absolute times of a shared machine are worth little: clocks rise and fall, caches are shared. Two
networks that take turns in one process meet the same of it, so their ratio holds.

One *block* is four stretches, first, second, second, first (every other block begins with the
second), each of as many passes as fill `STRETCH_S`: what drifts evenly falls out of its ratio.
Blocks in which a network's own two stretches differ by more than `DRIFT` are discarded, since
something else happened there; both networks are asked, else the median would lean to one side.
The figure is the median of the blocks' ratios; its interval is between two order statistics, which
assumes nothing of the distribution. Measuring ends once the interval is narrow, so its true
coverage is somewhat below `CONFIDENCE`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from espalier.runtimes.base import Clock, Runnable

CONFIDENCE = 0.99
STRETCH_S = 0.005
"""Seconds of passes between two looks at the clock: long beside the look and the cold start after
the other network, short beside what others on the machine do."""
DRIFT = 0.05
NARROW = 0.03
"""Width of the interval, relative to the ratio, at which measuring ends."""
WIDE = 0.06
"""Width above which the figure is called unreliable: it may be off by 3 %."""

_WARM_UP_S = 0.02
_WARM_UP_PASSES = 3
_FEWEST, _MOST = 16, 100  # blocks


@dataclass(frozen=True, slots=True)
class Timing:
    """The second network's time beside the first's.

    Attributes:
        ratio: the second's time over the first's; below 1 the second is faster.
        low, high: the ratio is between them with `CONFIDENCE`.
        before_s, after_s: seconds of one pass of the first and of the second, medians.
        blocks: that the figures rest on.
        unreliable: the interval is wide, or too few blocks were calm enough.
        clock: whose time it is.
    """

    ratio: float
    low: float
    high: float
    before_s: float
    after_s: float
    blocks: int
    unreliable: bool
    clock: Clock

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Block:
    """Seconds of a pass in the two stretches of each network."""

    first: tuple[float, float]
    second: tuple[float, float]

    @property
    def ratio(self) -> float:
        return sum(self.second) / sum(self.first)

    @property
    def calm(self) -> bool:
        return all(max(pair) <= (1 + DRIFT) * min(pair) for pair in (self.first, self.second))


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which two of the values the median of their distribution is.

    The k-th smallest and k-th largest of n, with the largest k for which P(B < k) is at most half
    of what the confidence leaves, B binomial of n and 1/2. Fewer than 8 values cannot give 99 %:
    then it is from the smallest to the largest.

    Source: David and Nagaraja, Order Statistics, 3rd edition, section 7.1.
    """
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0
    for i in range(n // 2):
        below += math.comb(n, i) / 2**n
        if below > (1 - confidence) / 2:
            break
        k = i
    return ordered[k], ordered[n - 1 - k]


def attains(n: int, confidence: float = CONFIDENCE) -> bool:
    """Whether n values can give the median an interval of this confidence."""
    return 1 - 0.5 ** (n - 1) >= confidence


def passes_for(runnable: Runnable, seconds: float = STRETCH_S) -> int:
    """Warm a network up; return how many passes fill so many seconds by its clock."""
    taken = [runnable.seconds(1) for _ in range(_WARM_UP_PASSES)]
    spent, passes = sum(taken), 1
    while spent < _WARM_UP_S:
        taken.append(runnable.seconds(passes) / passes)
        spent += taken[-1] * passes
        passes *= 2
    return max(1, math.ceil(seconds / max(min(taken[1:]), 1e-9)))


def paired(first: Runnable, second: Runnable, *, most_s: float = 60.0) -> Timing:
    """Time `second` beside `first`.

    Args:
        most_s: seconds on the wall after which no further block begins.

    Raises:
        ValueError: their clocks differ.
    """
    if first.clock != second.clock:
        raise ValueError(f"times by clock {first.clock} and by {second.clock} have no ratio")
    end = time.monotonic() + most_s
    passes = [(runnable, passes_for(runnable)) for runnable in (first, second)]
    blocks: list[_Block] = []
    while True:
        blocks.append(_block(passes, turned=len(blocks) % 2 == 1))
        timing = _timing(blocks, first.clock)
        narrow = timing.high - timing.low <= NARROW * timing.ratio and timing.blocks >= _FEWEST
        if narrow or len(blocks) >= _MOST or time.monotonic() >= end:
            return timing


def _block(passes: Sequence[tuple[Runnable, int]], *, turned: bool) -> _Block:
    found: tuple[list[float], list[float]] = ([], [])
    for which in (1, 0, 0, 1) if turned else (0, 1, 1, 0):
        runnable, count = passes[which]
        found[which].append(runnable.seconds(count) / count)
    (a, b), (c, d) = found
    return _Block((a, b), (c, d))


def _timing(blocks: Sequence[_Block], clock: Clock) -> Timing:
    calm = [block for block in blocks if block.calm]
    used = calm or blocks
    ratios = [block.ratio for block in used]
    ratio, (low, high) = median(ratios), median_interval(ratios)
    return Timing(
        ratio=ratio,
        low=low,
        high=high,
        before_s=median(sum(block.first) / 2 for block in used),
        after_s=median(sum(block.second) / 2 for block in used),
        blocks=len(used),
        unreliable=not calm or not attains(len(used)) or high - low > WIDE * ratio,
        clock=clock,
    )


def interleaved(
    runnables: Sequence[Runnable], *, rounds: int = 7, stretch_s: float = 0.002
) -> list[float]:
    """Seconds of one pass of each of many networks, measured in turns.

    In every round each is run once, forwards and backwards by turns, so that no stretch of a busy
    machine meets one of them alone. The least of the rounds stands: what others on the machine do
    only adds to the time of a thread.

    Args:
        rounds: stretches of each.
        stretch_s: seconds of a stretch.
    """
    passes = [passes_for(runnable, stretch_s) for runnable in runnables]
    least = [math.inf] * len(runnables)
    for turn in range(rounds):
        order = range(len(runnables))
        for which in reversed(order) if turn % 2 else order:
            taken = runnables[which].seconds(passes[which]) / passes[which]
            least[which] = min(least[which], taken)
    return least
