"""The widths that channel groups may keep, as the command line says them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from espalier.cli.console import out

_NAMED = 5  # groups that a line names
_RUN = 4  # widths in equal steps from which on two and the last stand for all


def widths_text(widths: Sequence[int]) -> str:
    """`8, 16 ... 64`: of many in equal steps the first two and the last."""
    parts: list[str] = []
    rest = list(widths)
    while rest:
        end = 1
        while end < len(rest) and rest[end] - rest[end - 1] == rest[1] - rest[0]:
            end += 1
        if end >= _RUN:
            parts.append(f"{rest[0]}, {rest[1]} ... {rest[end - 1]}")
        else:
            end = min(end, 1)
            parts.append(str(rest[0]))
        del rest[:end]
    return ", ".join(parts)


def target_text(target: dict[str, Any]) -> str:
    """`onnxruntime 1.31.1, 1 thread, batch 1, on AMD EPYC`."""
    threads = target["threads"]
    return (
        f"{target['runtime']} {target['version']}, {threads} thread{'s' * (threads != 1)}, "
        f"batch {target['batch']}, on {target['device']['name']}"
    )


def exceptions(widths: dict[str, Any]) -> list[str]:
    """Of the groups that may keep widths which are no faster than wider ones, a line a reason."""
    reasons = {
        "needed": "may keep slow widths too, since only with them the budget can be met",
        "finer": "may keep widths that are no faster than wider ones, or would have none",
    }
    return [f"{_some(widths[kind])}: {reason}" for kind, reason in reasons.items() if widths[kind]]


def prepared_lines(widths: dict[str, Any] | None) -> list[str]:
    """What the widths of a job follow from; nothing where they were not fitted to its target."""
    if not widths:
        return []
    chains, measured = widths["chains"], widths["measured"]
    rests = f"{measured} chains of layers timed, {chains - measured} taken over"
    if not chains:
        rests = "multiples of 8: layers could not be timed one by one"
    return [f"those fast in {target_text(widths['target'])}", rests, *exceptions(widths)]


def show_widths(widths: dict[str, Any]) -> None:
    """What each group may keep, and what that rests on."""
    table = Table("channel group", "channels", "widths that run fast", box=box.SIMPLE_HEAD)
    for group in widths["groups"]:
        table.add_row(escape(group["name"]), str(group["channels"]), widths_text(group["widths"]))
    out.print(table)
    for line in exceptions(widths):
        out.print(escape(line))
    where = target_text(widths["target"])
    out.print(escape(f"as the times say that earlier jobs have left of {where}"))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
