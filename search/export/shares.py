"""Where a network's MACs and its time are: the report's section, by channel group."""

from __future__ import annotations

import numpy as np

from search.cost import CostModel
from search.cost.shares import shares_of
from search.cost.staircase import Stair
from search.export.multiples import small_axes, title
from search.export.page import Markup, table, tag
from search.export.plot import CONTROL, LIMIT, MUTED, WINNER, as_svg
from search.export.result import Result
from search.export.words import share_text


def shares_section(result: Result) -> Markup:
    """Each group's share of the MACs, and where layers were timed of the time, and how it falls."""
    space, staircase = result.space, result.staircase
    if not space.groups:
        return Markup()
    stairs = () if staircase is None else staircase.stairs
    shares = shares_of(CostModel(space), stairs, [space.full, result.plan])
    timed = any(share.time is not None for share in shares[0])
    rows = []
    for group, before, after in zip(space.groups, *shares, strict=True):
        cells = [share_text(before.macs), share_text(after.macs)]
        if timed:
            times = (before.time, after.time)
            cells += ["–" if time is None else share_text(time) for time in times]
        rows.append((group.name, *cells))
    note = (
        "All that would go with a group's channels: the layers that make or read them, before and "
        "after, beside the whole original. A layer between two groups counts for both, so the "
        "shares add up to more than the whole."
    )
    head = ["", "MACs, original", "MACs, pruned"]
    if timed:
        head += ["Time, original", "Time, pruned"]
        note += (
            " The time is told from chains of these layers, timed alone at a few widths and "
            "interpolated between them, and scaled to have the share of the MACs over all groups "
            "timed: where it is the larger one, layers are slow. How long the whole file takes "
            "was measured, see Time."
        )
    parts = [tag("p", note), table(head, rows)]
    shown = {stair.group: stair for stair in stairs if len(stair.widths) > 1}
    if shown:
        parts += [
            tag(
                "p",
                "The time of the layers around a group over its width, beside its full width's: "
                "the dark line with all other groups whole, the light one with them at half. Marks "
                "at the bottom are the widths that it might keep, the ring is the one kept.",
                style="margin-top:1.2em",
            ),
            Markup(staircases(result, shown)),
        ]
    return tag("section", tag("h2", "Where the MACs and the time are"), *parts)


def staircases(result: Result, stairs: dict[str, Stair]) -> str:
    """Time against width of each group that was timed, as an SVG element."""
    groups = zip(result.space.groups, result.choices, result.plan, strict=True)
    found = [(stairs[g.name], options, kept) for g, options, kept in groups if g.name in stairs]
    most = max(max(times) / stair.seconds[-1][0] for stair, *_ in found for times in stair.seconds)
    with small_axes(len(found), "Channels of the group kept", "Time, % of the full width's") as (
        figure,
        grid,
    ):
        for axes, (stair, options, kept) in zip(grid, found, strict=True):
            channels, whole = stair.widths[-1], stair.seconds[-1][0]
            widths = [100 * width / channels for width in stair.widths]
            first, second = (
                [100 * seconds / whole for seconds in level]
                for level in zip(*stair.seconds, strict=True)
            )
            axes.plot(widths, second, color=MUTED, alpha=0.6, linewidth=1.1, zorder=2.5)
            axes.plot(
                widths, first, color=WINNER, linewidth=1.6, marker="o", markersize=3, zorder=3
            )
            axes.plot(
                [100 * width / channels for width in options], [0] * len(options), linestyle="",
                marker="|", markersize=6, color=CONTROL, zorder=3, clip_on=False,
            )  # fmt: skip
            at = 100 * kept / channels
            axes.plot(
                [at], [np.interp(at, widths, first)], marker="o", markersize=8,
                markerfacecolor="none", markeredgecolor=LIMIT, markeredgewidth=1.6, zorder=4,
                clip_on=False,
            )  # fmt: skip
            axes.set_xlim(0, 103)
            axes.set_ylim(0, 108 * max(1.0, most))
            axes.set_xticks([50, 100], ["50", "100 %"])
            axes.set_yticks([0, 50, 100])
            title(axes, stair.group, channels)
        return as_svg(figure)
