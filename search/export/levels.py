"""What each group loses at each width: a file of facts, and the report's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.export.multiples import Panel, small_multiples
from search.export.page import Markup, tag
from search.export.result import Result
from search.levels import anchors
from search.strategy_specs import AllocateSpec

Facts = Mapping[str, Any]


def has_levels(result: Result) -> bool:
    """Whether the job's strategy goes by the losses of single groups."""
    return isinstance(result.spec.strategy, AllocateSpec)


def levels_facts(result: Result) -> dict[str, Any]:
    """What `levels.json` holds, as JSON values.

    A loss is the Kullback-Leibler divergence of the network's outputs from the original's, in nats,
    when this group alone is cut. `losses` has it for keeping 1, 2, ... channels, `anchors` where it
    was measured, the widest first. A group that could not be measured has `null` and no anchors.
    """
    choices = result.choices
    return {
        "taken_over": result.levels is not None,
        "groups": [
            {
                "name": group.name,
                "channels": group.channels,
                "anchors": _anchors(choices[index], losses),
                "losses": None if losses is None else list(losses),
            }
            for index, (group, losses) in enumerate(
                zip(result.space.groups, _losses(result), strict=True)
            )
        ],
    }


def _losses(result: Result) -> Sequence[Sequence[float] | None]:
    """By group: an earlier job's, or what the trials of this one found."""
    if result.levels is not None:
        return result.levels
    found = {trial.proposal.levels_of: trial.outcome.losses for trial in result.trials}
    return [found.get(group) for group in range(len(result.space.groups))]


def _anchors(options: Sequence[int], losses: Sequence[float] | None) -> list[dict[str, Any]]:
    if losses is None:
        return []
    return [{"kept": width, "loss": losses[width - 1]} for width in anchors(options)]


def levels_section(result: Result) -> Markup:
    """The report's section, with a small plot a group; nothing for other strategies."""
    if not has_levels(result) or not result.space.groups:
        return Markup()
    facts, panels = levels_facts(result), []
    for group, width in zip(facts["groups"], result.plan, strict=True):
        channels = group["channels"]
        points = [(1 - point["kept"] / channels, point["loss"]) for point in group["anchors"]]
        chosen = 1 - width / channels if width < channels and points else None
        panels.append(Panel(group["name"], channels, points, chosen))
    note = (
        "Each group cut on its own, all others whole: how far the network's outputs move from the "
        "original's, in nats, measured at up to four widths. The plans that were tried share the "
        "budget out by these losses. The ring marks the winner's width, the grey band holds the "
        "middle half of all groups, and the axis is a square root, so that small losses show."
    )
    if facts["taken_over"]:
        note += " An earlier job of the same network, data and settings has measured them."
    return tag(
        "section",
        tag("h2", "What each group loses"),
        tag("p", note),
        Markup(small_multiples(panels, "kl", label="Loss, nats")),
    )
