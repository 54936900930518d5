"""Small multiples: one little plot a channel group, all on the same axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from search.export.plot import GRID, INK, LIMIT, MUTED, STYLE, WINNER, as_svg
from search.export.words import METRICS, is_fraction

_COLUMNS = 4
_LEFT, _TOP, _BOTTOM, _ROW = 0.62, 0.24, 0.5, 1.42  # inches
_NAME = 26  # characters that fit above a panel
_BAND = "#e6ece7"

Curve = tuple[list[float], list[float]]
Band = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One group's curve.

    Attributes:
        points: (share of the channels removed, drop), the drop `None` where the trial failed.
        chosen: the share that the final plan removes; `None` if there is none.
    """

    name: str
    channels: int
    points: Sequence[tuple[float, float | None]]
    chosen: float | None


def _root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A square root that goes on below zero."""
    found: NDArray[np.float64] = np.sign(values) * np.sqrt(np.abs(values))
    return found


def _square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sign(values) * np.square(values)
    return found


def _nice(value: float) -> float:
    """1, 2 or 5 times a power of ten, the next at or below."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (5, 2, 1) if step * power <= value * (1 + 1e-9))


def ticks(most: float) -> list[float]:
    """0 and a few round numbers up to `most`, well apart on an axis of square roots."""
    return [0.0, *sorted({_nice(most * share) for share in (1.0, 0.35, 0.07)})]


def small_multiples(
    panels: Sequence[Panel], metric: str, *, label: str | None = None, background: str = "none"
) -> str:
    """The drop against the share of channels removed, before the middle half of all curves.

    Args:
        panels: in order; without any, the picture is empty.
        label: what the drop is called; by default for the metric.
    """
    scale = 100.0 if is_fraction(metric) else 1.0
    curves = [_curve(panel, scale) for panel in panels]
    band = _middle_half(curves)
    drops = [0.01 * scale, *(drop for _, drops in curves for drop in drops)]
    most, least = max(drops), min(drops)
    name = METRICS[metric][0].lower() + METRICS[metric][1:]
    drop = f"Drop in {name}, points" if is_fraction(metric) else f"Rise in {name}"
    with small_axes(len(panels), "Channels of the group removed", label or drop, background) as (
        figure,
        grid,
    ):
        # Room for a marker at either end.
        limits = -0.006 * most + min(least * 1.4, 0.0), most * 1.15
        for axes, panel, curve in zip(grid, panels, curves, strict=True):
            _draw(axes, panel, curve, band)
            axes.set_yscale("function", functions=(_root, _square))
            axes.set_ylim(*limits)
            axes.set_yticks(ticks(most), [f"{tick:g}" for tick in ticks(most)])
            axes.set_yticks([], minor=True)
            axes.set_xlim(-0.03, 1.0)
            axes.set_xticks([0.0, 0.5, 0.9], ["0", "50", "90 %"])
        return as_svg(figure)


@contextmanager
def small_axes(
    count: int, across: str, up: str, background: str = "none"
) -> Iterator[tuple[Figure, list[Any]]]:
    """A figure, and the axes of so many little plots, of which the outermost carry the numbers.

    Args:
        across, up: what the axes are called.
    """
    columns = max(1, min(_COLUMNS, count))
    rows = max(1, -(-count // columns))
    with mpl.rc_context(STYLE | {"font.size": 9.0}):
        # Laid out by hand and without shared axes: both take a time that grows with the square.
        width, height = 2.15 * _COLUMNS, _TOP + _BOTTOM + _ROW * rows
        figure = Figure(figsize=(width, height), facecolor=background)
        right = _LEFT + (width - _LEFT) * columns / _COLUMNS - 0.12
        grid: Any = figure.subplots(
            rows, columns, squeeze=False,
            gridspec_kw={
                "left": _LEFT / width, "right": right / width, "wspace": 0.07, "hspace": 0.3,
                "bottom": _BOTTOM / height, "top": 1 - _TOP / height,
            },
        )  # fmt: skip
        for index, axes in enumerate(grid.flat):
            axes.set_visible(index < count)
            axes.set_facecolor("none")
            axes.grid(True, color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            axes.tick_params(
                length=0, labelsize=8, labelleft=index % columns == 0,
                labelbottom=index + columns >= count,
            )  # fmt: skip
        middle = (_LEFT + right) / 2 / width, (_BOTTOM + height - _TOP) / 2 / height
        figure.text(middle[0], 0.06 / height, across, ha="center", va="bottom", fontsize=9.5)
        figure.text(0.0, middle[1], up, rotation=90, ha="left", va="center", fontsize=9.5)
        yield figure, list(grid.flat[:count])


def title(axes: Any, name: str, channels: int) -> None:
    """The group's name above its plot, and its channels inside."""
    name = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    axes.set_title(name, fontsize=8.5, loc="left", color=INK, parse_math=False, pad=3)
    axes.annotate(
        f"{channels}", (0.03, 0.95), xycoords="axes fraction", ha="left", va="top",
        fontsize=7.5, color=MUTED,
    )  # fmt: skip


def _curve(panel: Panel, scale: float) -> Curve:
    """What was measured and did not fail, from the original on."""
    found = [(removed, drop) for removed, drop in panel.points if drop is not None]
    return [0.0, *(x for x, _ in found)], [0.0, *(y * scale for _, y in found)]


def _middle_half(curves: Sequence[Curve]) -> Band:
    """Shares removed, and the first and third quartile of all curves that reach so far."""
    shares = np.linspace(0, 1, 41)
    values = np.array([np.interp(shares, *curve, right=np.nan) for curve in curves])
    reached = ~np.isnan(values).all(axis=0) if len(values) else np.zeros(len(shares), np.bool_)
    if not reached.any():
        return shares[:0], shares[:0], shares[:0]
    low, high = np.nanpercentile(values[:, reached], [25, 75], axis=0)
    return shares[reached], low, high


def _draw(
    axes: Any,
    panel: Panel,
    curve: Curve,
    band: Band,
) -> None:
    axes.fill_between(*band, color=_BAND, linewidth=0, zorder=1.5)
    axes.plot(*curve, color=WINNER, linewidth=1.6, marker="o", markersize=3, zorder=3)
    for removed, drop in panel.points:
        if drop is None:
            axes.axvline(removed, color=LIMIT, linewidth=1, linestyle=(0, (1, 2)), zorder=2)
    if panel.chosen is not None:
        at = float(np.interp(panel.chosen, *curve))
        axes.plot(
            [panel.chosen], [at], marker="o", markersize=8, markerfacecolor="none",
            markeredgecolor=LIMIT, markeredgewidth=1.6, zorder=4, clip_on=False,
        )  # fmt: skip
    title(axes, panel.name, panel.channels)
