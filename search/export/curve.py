"""One search, many budgets: the points between the winner and the original, as file and section."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.export import words
from search.export.page import Markup, table, tag
from search.export.plot import Landscape, Point, landscape
from search.export.result import Result
from search.records import Trial

Facts = Mapping[str, Any]


def points_of(result: Result) -> list[Trial]:
    """The points that succeeded, the smallest budget first."""
    found = [
        trial
        for trial in result.trials
        if "point" in trial.proposal.tags and trial.outcome.score is not None
    ]
    return sorted(found, key=lambda trial: trial.proposal.number)


def points_summary(result: Result) -> list[dict[str, Any]]:
    """What a job's summary says of the points."""
    return [
        {
            "trial": trial.proposal.number,
            "cost": dict(trial.outcome.cost),
            "score": trial.outcome.score,
        }
        for trial in points_of(result)
    ]


def curve_facts(result: Result, final: Mapping[str, float]) -> dict[str, Any]:
    """What `curve.json` holds, as JSON values.

    Metrics are of the hold-out. A score is the metric that the job asks for, higher is better. The
    winner is there as the search scored it, and `finetuned`. `points` begin with the smallest cost.

    Args:
        final: hold-out metrics of the fine-tuned winner.
    """
    evaluator, winner = result.evaluator, _winner(result)
    baseline = evaluator.baseline()
    return {
        "metric": result.spec.evaluation.metric,
        "limits": dict(result.limits),
        "original": {
            "plan": list(result.space.full),
            "cost": dict(result.before),
            "score": evaluator.score(baseline),
            "metrics": baseline,
        },
        "winner": {**_facts(winner), "finetuned": dict(final)},
        "points": [_facts(trial) for trial in points_of(result)],
    }


def _winner(result: Result) -> Trial:
    return next(trial for trial in result.trials if trial.proposal.number == result.winner)


def _facts(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.proposal.number,
        "plan": list(trial.proposal.plan),
        "cost": dict(trial.outcome.cost),
        "score": trial.outcome.score,
        "metrics": dict(trial.outcome.metrics),
    }


def curve_section(result: Result, metric: str, final: Mapping[str, float]) -> Markup:
    """The report's section: plots for each limit and a table; nothing if there are no points.

    Args:
        metric: shown beside the divergence from the original, which tells networks apart where the
            metric does not.
        final: as `curve_facts` takes it.
    """
    if not points_of(result):
        return Markup()
    facts = curve_facts(result, final)
    plots = [
        Markup(landscape(_landscape(facts, shown, name), name, limit))
        for name, limit in result.limits.items()
        for shown in dict.fromkeys((metric, "kl"))
    ]
    about = (
        "The search for one budget knows what every group loses, so it also gives the best plans "
        "that it knows for larger ones: the points."
        if result.spec.strategy.name == "allocate"
        else "The search left a front of networks, of which none is better in everything than "
        "another: the points are spread along it, from the cheapest up."
    )
    note = (
        f"{about} Each is scored as it is kept with its weights, not fine-tuned. Measured on the "
        "hold-out."
    )
    first = facts["points"][0]["trial"]
    fetch = tag(
        "p",
        "Each trial named below can be downloaded with its weights, as by ",
        tag("code", f"espalier download JOB --trial {first}"),
        " with this job's id for JOB. The fine-tuned winner is network.espalier.",
    )
    return tag(
        "section", tag("h2", "One search, many budgets"), tag("p", note), *plots, fetch,
        _table(result, facts, metric),
    )  # fmt: skip


def _along(facts: Facts, cost: str) -> list[Facts]:
    """The winner and the points, the cheapest first."""
    return sorted([facts["winner"], *facts["points"]], key=lambda each: each["cost"][cost])


def _landscape(facts: Facts, metric: str, cost: str) -> Landscape:
    original, winner = facts["original"], facts["winner"]
    return Landscape(
        metric=metric,
        original=Point(original["cost"], original["metrics"][metric]),
        trials=(),
        path=_plotted([winner], metric),
        final=next(iter(_plotted([{**winner, "metrics": winner["finetuned"]}], metric)), None),
        control=None,
        curve=_plotted([*_along(facts, cost), original], metric),
    )


def _plotted(networks: Sequence[Facts], metric: str) -> list[Point]:
    found = [(each["cost"], each["metrics"].get(metric, math.nan)) for each in networks]
    return [Point(cost, value) for cost, value in found if math.isfinite(value)]


def _table(result: Result, facts: Facts, metric: str) -> Markup:
    """The original first, then ever smaller networks; the winner also after fine-tuning."""
    original, winner = facts["original"], facts["winner"]
    shown = {metric, "top1", "agreement", "kl"} & original["metrics"].keys()
    metrics = [name for name in words.METRICS if name in shown]
    networks: list[tuple[str, Facts]] = [("Original", original)]
    for each in reversed(_along(facts, next(iter(result.limits)))):
        if each is winner:
            networks.append((f"Trial {each['trial']}, the winner", each))
            networks.append(("Winner, fine-tuned", {**each, "metrics": each["finetuned"]}))
        else:
            networks.append((f"Trial {each['trial']}", each))
    rows = []
    for label, each in networks:
        costs = (_cost(name, each["cost"][name], original) for name in result.limits)
        values = (
            words.metric_text(name, each["metrics"][name]) if name in each["metrics"] else "–"
            for name in metrics
        )
        rows.append((label, *costs, *values))
    costs_head = (words.COSTS.get(name, name) for name in result.limits)
    return table(("", *costs_head, *(words.METRICS[name] for name in metrics)), rows)


def _cost(name: str, cost: int, original: Facts) -> str:
    full = original["cost"][name]
    return f"{words.cost_text(name, cost)} ({100 * cost / full:.1f} %)" if full else str(cost)
