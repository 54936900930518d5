"""Which widths of a channel group are worth keeping, from the times of a few.

Kernels compute so many channels side by side, and lay channels out in blocks: over its width, a
layer's time is a staircase, with widths between the steps that are slower than wider ones. A width
is no choice where a wider one is hardly slower, whatever the widths around it. A few widths are
measured, close below some round ones (`probes`); what multiple of channels is fast there is taken
for all widths in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

MULTIPLES = (1, 2, 4, 8, 16)
"""Of channels, that are told apart."""

SHARE = 0.4
"""A wider width is hardly slower if each of its further channels takes less than this share of
what a channel takes on average at the full width, or all of them less than `NOISE`. Chosen among
0.25, 0.4 and 0.5 on one search (ResNet-20 at half the MACs, seed 0): less keeps widths that save
MACs and little time, more takes widths from the search that it needs. What it gives on other
networks and seeds: benchmarks/README.md, Widths."""

FLAT = 0.05
"""Share of the full width's time that the narrowest must save for a width to matter at all; below
it, a width is given up only for a wider one that is faster."""

NOISE = 0.03
"""Share by which two measured times of equal kernels differ at most, but for bad luck."""

_WIDE = 64
_BASES = (0.25, 0.5, 0.75)  # of the full width
_BASES_WIDE = (0.5,)  # of more channels than `_WIDE`

Times = Mapping[int, Sequence[float]]
"""By width, seconds at each of several widths of the neighbours."""


def bases(channels: int, steps: Sequence[int]) -> tuple[int, ...]:
    """Round widths about a quarter, half and three quarters of the full one, and it.

    Only half of it where there are many channels.

    Args:
        steps: in the group's channels, to each of `MULTIPLES`.
    """
    coarsest = max((step for step in steps if step <= channels / 2), default=1)
    shares = _BASES_WIDE if channels > _WIDE else _BASES
    round_ones = {round(share * channels / coarsest) * coarsest for share in shares}
    return (*sorted(width for width in round_ones if 0 < width < channels), channels)


def probes(channels: int, steps: Sequence[int]) -> tuple[int, ...]:
    """The widths to measure, ascending: the bases, and the next narrower one of each multiple."""
    found: set[int] = set()
    for base in bases(channels, steps):
        found |= {base, *((base - 1) // step * step for step in steps)}
    return tuple(sorted(found - {0}))


def preferred(
    channels: int, steps: Sequence[int], times: Times, *, strict: bool = False
) -> tuple[int, ...]:
    """The widths that a group may keep, ascending; the full one always.

    Args:
        channels: the full width.
        steps: in the group's channels, to each of `MULTIPLES`.
        times: of `probes`.
        strict: give widths up only for wider ones that are faster.
    """
    poor = _poor(channels, times, strict=strict)
    found = {channels}
    for low, high in pairwise((0, *bases(channels, steps))):
        inside = [width for width in times if low < width <= high and width < channels]
        step = max(step for step in steps if all(width in poor for width in inside if width % step))
        found |= {
            width for width in range(low + 1, high + 1) if width % step == 0 and width not in poor
        }
    return tuple(sorted(found))


def _poor(channels: int, times: Times, *, strict: bool) -> set[int]:
    """Those of the measured widths that a wider one makes no choice."""
    narrowest = min(times)
    slopes: list[float | None] = []
    for least, most in zip(times[narrowest], times[channels], strict=True):
        flat = strict or most - least < FLAT * most
        slopes.append(None if flat else SHARE * most / channels)

    def gives_way(width: int, wider: int) -> bool:
        return all(
            after < (1 - NOISE) * before
            if slope is None
            else after - before <= max(slope * (wider - width), NOISE * before)
            for before, after, slope in zip(times[width], times[wider], slopes, strict=True)
        )

    kept: list[int] = []  # what gives way itself is no reason to
    for width in sorted(times, reverse=True):
        if not any(gives_way(width, wider) for wider in kept):
            kept.append(width)
    return set(times) - set(kept)
