"""What a finished job's summary says, as lines."""

from __future__ import annotations

from typing import Any

from espalier.cli.console import COSTS, quantity
from espalier.timing import CONFIDENCE

_Row = tuple[str, str, str, str]


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Before and after, one line for each figure; nothing of what the summary lacks."""
    rows: list[_Row] = []
    accuracy = summary.get("test_accuracy")
    if accuracy and accuracy.get("before") is not None:
        rows.append(("test accuracy", share(accuracy["before"]), share(accuracy["after"]), ""))
    for name, label in COSTS.items():
        if name in summary:
            before, after = summary[name]["before"], summary[name]["after"]
            rows.append(
                (label, quantity(name, before), quantity(name, after), _ratio(summary[name]))
            )
    timings = summary.get("timings", [])
    rows += [_timed(timing) for timing in timings]
    if latency := summary.get("latency_s"):  # of jobs that finished before there were timings
        before, after = _ms(latency["before"]), _ms(latency["after"])
        note = "in PyTorch, batch 1; no interval was measured"
        rows.append(("latency", before, after, f"{_ratio(latency):>8}  {note}"))
    lines = [f"{label:<22} {old:>10} -> {new:>10}  {ratio:>8}" for label, old, new, ratio in rows]
    lines += _where(timings[0]) if timings else []
    return [line.rstrip() for line in lines]


def _ratio(values: dict[str, Any]) -> str:
    return f"{100 * values['after'] / values['before']:.1f} %" if values["before"] else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _timed(timing: dict[str, Any]) -> _Row:
    low, high = 100 * timing["low"], 100 * timing["high"]
    ratio = f"{100 * timing['ratio']:.1f} %"
    note = f"({low:.1f} to {high:.1f} %) at {100 * timing['macs_ratio']:.1f} % of the MACs"
    if timing["unreliable"]:
        note += ", unreliable: the machine was too busy"
    label = f"latency, batch {timing['batch']}"
    return label, _ms(timing["before_s"]), _ms(timing["after_s"]), f"{ratio:>8}  {note}"


def _where(timing: dict[str, Any]) -> list[str]:
    threads = timing["threads"]
    return [
        f"latency is that of a pass in {timing['runtime']} {timing['version']}, "
        f"{threads} thread{'s' * (threads != 1)}, {timing['precision']}, on "
        f"{timing['device']['name']}; in brackets with {CONFIDENCE:.0%} confidence"
    ]
