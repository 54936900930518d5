"""The report's plots as SVG, drawn without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from search.export.words import COSTS, METRICS, cost_unit, is_fraction

INK, MUTED, GRID = "#1f2a24", "#66736b", "#e3e8e2"
TRIAL, WINNER, CONTROL, ORIGINAL, LIMIT = "#8fb3a1", "#0b6e4f", "#c8791b", "#1f2a24", "#b23a48"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "espalier",  # the same picture has the same bytes
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "font.size": 10.5,
    "axes.edgecolor": MUTED,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A network in the plot: its costs, and a metric on the hold-out."""

    cost: Mapping[str, int]
    value: float


@dataclass(frozen=True, slots=True)
class Landscape:
    """What the plot of a metric against a cost shows.

    Attributes:
        trials: all that were scored.
        path: the winner's ancestors, oldest first, ending with the winner as the search scored it.
        final: the winner after fine-tuning.
        control: the uniform plan without fine-tuning.
        front: the trials that no other beats in all objectives; none if there is but one.
        curve: the winner, the points and the original, the cheapest first.
    """

    metric: str
    original: Point
    trials: Sequence[Point]
    path: Sequence[Point]
    final: Point | None
    control: Point | None
    front: Sequence[Point] = ()
    curve: Sequence[Point] = ()


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element, the same bytes for the same picture."""
    stream = io.StringIO()
    canvas = FigureCanvasSVG(figure)
    canvas.print_svg(  # type: ignore[no-untyped-call]  # matplotlib's is not annotated
        stream, metadata={"Date": None, "Creator": None}
    )
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _axes(figure: Figure) -> Any:
    axes = figure.add_subplot()
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return axes


def landscape(shown: Landscape, cost: str, limit: int) -> str:
    """The metric against one cost, with the budget as a line, as an SVG element.

    A limit far above the original's cost is not drawn: the plot would be all budget.
    """
    scale = 100.0 if is_fraction(shown.metric) else 1.0
    factor, unit = cost_unit(cost, shown.original.cost[cost])

    def xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [p.cost[cost] / factor for p in points], [p.value * scale for p in points]

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained", facecolor="none")
        axes = _axes(figure)
        axes.set_facecolor("none")
        if limit <= 1.5 * shown.original.cost[cost]:
            x = limit / factor
            axes.axvline(x, color=LIMIT, linewidth=1.4, linestyle=(0, (5, 3)), label="Budget")
            axes.axvspan(0, x, color=LIMIT, alpha=0.035, linewidth=0)
        if shown.trials:
            axes.scatter(
                *xy(shown.trials), s=42, color=TRIAL, alpha=0.9, linewidth=0, label="Trials",
                zorder=3,
            )  # fmt: skip
        if shown.curve:
            axes.plot(
                *xy(shown.curve), color=WINNER, linewidth=1.6, alpha=0.75, marker="o",
                markersize=6.5, zorder=3.5, label="Points",
            )  # fmt: skip
        if shown.front:
            axes.scatter(
                *xy(shown.front), s=42, facecolor="none", edgecolor=WINNER, linewidth=1.3,
                zorder=3.6, label="Front",
            )  # fmt: skip
        if len(shown.path) > 1:
            axes.plot(*xy(shown.path), color=WINNER, linewidth=1.3, alpha=0.6, zorder=3.5)
        if shown.control is not None:
            axes.scatter(
                *xy([shown.control]), s=80, marker="s", color=CONTROL, zorder=5,
                label="Uniform plan, not fine-tuned",
            )  # fmt: skip
        if shown.path:
            axes.scatter(
                *xy(shown.path[-1:]), s=80, facecolor="white", edgecolor=WINNER, linewidth=2,
                zorder=5, label="Winner in the search",
            )  # fmt: skip
        if shown.final is not None:
            axes.scatter(
                *xy([shown.final]), s=190, marker="*", color=WINNER, zorder=6,
                label="Winner, fine-tuned",
            )  # fmt: skip
        axes.scatter(
            *xy([shown.original]), s=80, marker="D", color=ORIGINAL, zorder=5, label="Original"
        )
        axes.set_xlim(left=0)
        axes.margins(x=0.04, y=0.08)
        axes.set_xlabel(f"{COSTS.get(cost, cost)}{f' ({unit})' if unit else ''}")
        axes.set_ylabel(f"{METRICS[shown.metric]}{' (%)' if is_fraction(shown.metric) else ''}")
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False,
            columnspacing=1.6, handletextpad=0.5,
        )  # fmt: skip
        return as_svg(figure)


def progress(metric: str, values: Sequence[tuple[int, float]], original: float) -> str:
    """The metric on the hold-out after each epoch of fine-tuning, as an SVG element."""
    scale = 100.0 if is_fraction(metric) else 1.0
    epochs = [epoch for epoch, _ in values]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.9), layout="constrained", facecolor="none")
        axes = _axes(figure)
        axes.set_facecolor("none")
        axes.axhline(original * scale, color=ORIGINAL, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            "original", (0, original * scale), xycoords=("axes fraction", "data"),
            xytext=(6, -4), textcoords="offset points", ha="left", va="top", color=MUTED,
        )  # fmt: skip
        axes.plot(
            epochs, [value * scale for _, value in values], color=WINNER, marker="o",
            markersize=5, linewidth=1.8,
        )  # fmt: skip
        axes.set_xlabel("Epoch (0: as the search left it)")
        axes.set_ylabel(f"{METRICS[metric]}{' (%)' if is_fraction(metric) else ''}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.15)
        return as_svg(figure)
