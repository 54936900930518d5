"""Sensitivity curves as a result: a file of facts, and the report's section with plot and table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from search.export import words
from search.export.multiples import Panel, small_multiples
from search.export.page import Markup, join, tag
from search.export.result import Result
from search.records import Trial
from search.strategies.sensitivity import curve
from search.strategy_specs import SensitivitySpec

_COLUMNS = 12  # levels in the table; the file has all of them
_HEAT = "178,58,72"  # of a drop, as red, green, blue

Facts = Mapping[str, Any]


def has_curves(result: Result) -> bool:
    """Whether the job's strategy measured curves."""
    return isinstance(result.spec.strategy, SensitivitySpec)


def sensitivity_facts(result: Result) -> dict[str, Any]:
    """What `sensitivity.json` holds, as JSON values.

    A drop is the original's score less the trial's, in the metric's own unit: 0.01 is one point of
    an accuracy. `fitted_drop` is what the allocation took it for, never falling as the group
    narrows. Both are `null` where a trial failed.
    """
    score = cast(float, result.evaluator.score(result.evaluator.baseline()))  # as in `prepare`
    final = next((t for t in result.trials if "tolerated" in t.proposal.tags), None)
    choices = result.choices
    return {
        "metric": result.spec.evaluation.metric,
        "original": {
            "score": score,
            "metrics": dict(result.evaluator.baseline()),
            "cost": dict(result.before),
        },
        "groups": [
            {
                "name": group.name,
                "channels": group.channels,
                "points": _points(result, score, index, choices[index]),
            }
            for index, group in enumerate(result.space.groups)
        ],
        "allocated": None if final is None else _allocated(final),
    }


def _allocated(final: Trial) -> dict[str, Any]:
    tolerated = final.proposal.tags["tolerated"]
    return {
        "trial": final.proposal.number,
        "plan": list(final.proposal.plan),
        "tolerated_drop": tolerated if isinstance(tolerated, float) else None,
        "score": final.outcome.score,
    }


def _points(
    result: Result, score: float, group: int, options: Sequence[int]
) -> list[dict[str, Any]]:
    """The measured widths of one group, the widest first."""
    trials = [trial for trial in result.trials if trial.proposal.tags.get("group") == group]
    scores = {trial.proposal.plan[group]: trial.outcome.score for trial in trials}
    fitted = dict(zip(options, curve(options, scores, score).tolist(), strict=True))
    points = []
    for trial in trials:
        kept, found = trial.proposal.plan[group], trial.outcome.score
        points.append(
            {
                "trial": trial.proposal.number,
                "level": trial.proposal.tags["level"],
                "kept": kept,
                "keep_ratio": kept / options[-1],
                "score": found,
                "drop": None if found is None else score - found,
                "fitted_drop": fitted[kept] if math.isfinite(fitted[kept]) else None,
                "metrics": dict(trial.outcome.metrics),
                "cost": dict(trial.outcome.cost),
            }
        )
    return points


def sensitivity_svg(facts: Facts, *, background: str = "none") -> str:
    """One small plot a group, as an SVG element."""
    plan, panels = _cut(facts), []
    for index, group in enumerate(facts["groups"]):
        points = [(1 - p["keep_ratio"], p["drop"]) for p in group["points"]]
        removed = None if plan is None else 1 - plan[index] / group["channels"]
        panels.append(Panel(group["name"], group["channels"], points, removed))
    return small_multiples(panels, str(facts["metric"]), background=background)


def sensitivity_section(result: Result) -> Markup:
    """The report's section: the plot, and the same as a table; nothing for other strategies."""
    if not has_curves(result) or not result.space.groups:
        return Markup()
    facts = sensitivity_facts(result)
    metric = str(facts["metric"])
    fraction = words.is_fraction(metric)
    change = "falls below the original's, in points" if fraction else "rises above the original's"
    note = (
        "Each group cut on its own, all others whole, without any fine-tuning: how far "
        f"{_inner(words.METRICS[metric])} on the hold-out {change}. "
        "The grey band holds the middle half of all groups. "
    )
    if _cut(facts):
        drop = facts["allocated"]["tolerated_drop"]
        note += "The ring marks the width in the plan that the curves led to"
        note += "" if drop is None else f"; it tolerates {_drop_text(metric, drop)} in each group"
        note += ". "
    return tag(
        "section",
        tag("h2", "How sensitive each group is"),
        tag("p", note + "The axis is a square root, so that small drops show."),
        Markup(sensitivity_svg(facts)),
        tag("p", "The same as numbers, by the share of the group's channels that was removed, to "
            "the nearest width allowed. MACs: what the narrowest of these saves of the whole "
            "network's."),
        _table(facts),
    )  # fmt: skip


def _cut(facts: Facts) -> list[int] | None:
    """The plan that the curves led to, if it cuts anything."""
    plan: list[int] | None = facts["allocated"] and facts["allocated"]["plan"]
    return None if plan == [group["channels"] for group in facts["groups"]] else plan


def _inner(name: str) -> str:
    """A name as it stands within a sentence."""
    return name if name[:2].isupper() else name[0].lower() + name[1:]


def _table(facts: Facts) -> Markup:
    metric, plan, groups = str(facts["metric"]), _cut(facts), facts["groups"]
    levels = sorted({p["level"] for group in groups for p in group["points"]}, reverse=True)
    levels = levels[:: max(1, math.ceil(len(levels) / _COLUMNS))]
    drops = [p["drop"] for group in groups for p in group["points"] if p["drop"] is not None]
    most = max([*drops, 0.0])
    head = ("Group", *(f"{100 * (1 - level):.3g} %" for level in levels), "MACs")
    head += ("Plan keeps",) if plan else ()
    rows = []
    for index, group in enumerate(groups):
        at = {p["level"]: p for p in group["points"]}
        cells = [_cell(metric, at.get(level), group["channels"], most) for level in levels]
        saved = macs_saved(facts, group)
        kept = [tag("td", f"{plan[index]} of {group['channels']}")] if plan else []
        rows.append(
            tag(
                "tr",
                tag("th", group["name"], scope="row", title=group["name"]),
                *cells,
                tag("td", "–" if saved is None else f"{100 * saved:.1f} %"),
                *kept,
            )
        )
    titles = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    inner = tag("table", titles, tag("tbody", join(rows)), class_="heat")
    return tag("div", inner, class_="scroll")


def _cell(metric: str, point: Mapping[str, Any] | None, channels: int, most: float) -> Markup:
    if point is None:
        return tag("td")
    title = f"{point['kept']} of {channels} kept, trial {point['trial']}"
    if point["drop"] is None:
        return tag("td", "failed", title=title)
    share = math.sqrt(max(point["drop"], 0.0) / most) if most else 0.0
    style = f"background:rgba({_HEAT},{0.62 * share:.3f})"
    return tag("td", _number(metric, point["drop"], most), title=title, style=style)


def macs_saved(facts: Facts, group: Facts) -> float | None:
    """What the narrowest measured width of a group saves, as a share of the original's MACs."""
    full = facts["original"]["cost"]["macs"]
    if not group["points"] or not full:
        return None
    return 1.0 - float(min(point["cost"]["macs"] for point in group["points"]) / full)


def _number(metric: str, drop: float, most: float) -> str:
    """With a tenth of a point, or to a thousandth of the largest drop."""
    if words.is_fraction(metric):
        text = f"{100 * drop:.1f}"
    else:
        text = f"{drop:.{min(9, max(0, 3 - math.floor(math.log10(most or 1))))}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def _drop_text(metric: str, drop: float) -> str:
    if not words.is_fraction(metric):
        return f"a rise of {drop:.3g}"
    return f"a drop of {100 * drop:.2g} points" if drop else "no drop"
