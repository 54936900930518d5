"""Which widths the groups might keep and why: facts for plan.json, and the report's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from search.cost.staircase import Stair
from search.export.page import Markup, table, tag
from search.export.result import Result

_LISTED = 6  # widths that are named one by one


def widths_facts(result: Result) -> dict[str, Any]:
    """The widths that each group might keep, and the times that they follow from, if any do."""
    staircase = result.staircase
    facts: dict[str, Any] = {"choices": [list(options) for options in result.choices]}
    if staircase is not None:
        values = staircase.to_json()
        facts["staircase"] = {
            key: values[key] for key in ("target", "measured", "stairs", "finer", "needed")
        }
    return facts


def widths_text(options: Sequence[int]) -> str:
    """Widths in words: `8, 16, 32`, or `16 to 512 in steps of 16` where they are many."""
    if len(options) <= _LISTED:
        return ", ".join(map(str, options))
    parts: list[list[int]] = [[options[0]]]
    for before, width in pairwise(options):
        last = parts[-1]
        if len(last) < 2 or width - before == last[1] - last[0]:
            last.append(width)
        else:
            parts.append([width])
    return ", ".join(map(_run_text, parts))


def _run_text(widths: Sequence[int]) -> str:
    if len(widths) < 3:
        return ", ".join(map(str, widths))
    step = widths[1] - widths[0]
    steps = f" in steps of {step}" if step > 1 else ""
    return f"{widths[0]} to {widths[-1]}{steps}"


def _share(stair: Stair, width: int) -> float:
    """Time at the next width that was measured, of the full width's, its neighbours whole."""
    at = next(index for index, each in enumerate(stair.widths) if each >= width)
    return stair.seconds[at][0] / stair.seconds[-1][0]


def widths_section(result: Result, metrics: Mapping[str, Any]) -> Markup:
    """What a group might keep and how long it takes; with a number as rounding, what that cost."""
    if not result.space.groups:
        return Markup()
    title = tag("h2", "Widths")
    staircase = result.staircase
    if staircase is None:
        return tag("section", title, tag("p", _numbered(result, metrics)))
    stairs = {stair.group: stair for stair in staircase.stairs}
    rows = []
    groups = zip(result.space.groups, result.choices, result.plan, strict=True)
    for group, options, width in groups:
        stair = stairs.get(group.name)
        time = "–" if stair is None else f"{100 * _share(stair, width):.0f} %"
        why = "needed by the budget" if group.name in staircase.needed else ""
        why = why or ("fewer ran no faster" if group.name in staircase.finer else "")
        share = f"{100 * width / group.channels:.0f} %"
        rows.append((group.name, widths_text(options), width, share, time, why))
    target = staircase.target
    note = (
        f"What each group might keep: widths that run fast in {target.runtime} {target.version}, "
        f"{target.threads} thread{'s' * (target.threads > 1)}, batch {target.batch}, on "
        f"{target.device.name}. Time is that of the layers around the group, alone and at the next "
        "width that was timed, with all other groups whole. "
        f"{staircase.measured} chains of layers were timed for this job, "
        f"{len(staircase.seconds) - staircase.measured} were known."
    )
    head = ("Group", "Widths", "Kept", "Channels", "Time", "")
    return tag("section", title, tag("p", note), table(head, rows))


def _numbered(result: Result, metrics: Mapping[str, Any]) -> str:
    """What a rounding by number cost."""
    multiple, timing = result.spec.rounding.multiple, metrics["timings"][0]
    macs, time = timing["macs_ratio"], timing["ratio"]
    text = (
        "All widths were allowed" if multiple == 1 else f"Widths were multiples of {multiple}"
    ) + ", whether they run fast on the target or not (rounding.multiple)."
    if time > macs:
        text += (
            f" The network has {100 * macs:.0f} % of the MACs and takes {100 * time:.0f} % of the "
            f"time: {100 * (time - macs):.0f} points of the saving are not saved in time. With "
            "rounding.multiple auto, widths are those that run fast."
        )
    return text
