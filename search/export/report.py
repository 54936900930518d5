"""The report that a person reads: one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from search.export import words
from search.export.curve import curve_section
from search.export.levels import levels_section
from search.export.loading import how_to_load
from search.export.page import Markup, document, table, tag
from search.export.plot import Landscape, Point, landscape, progress
from search.export.result import Result
from search.export.sensitivity import sensitivity_section
from search.export.shares import shares_section
from search.export.timings import interval_text, place_text, timings_section
from search.export.widths import widths_section
from search.strategies.front import front_of

Metrics = Mapping[str, Any]


def report(result: Result, metrics: Metrics) -> str:
    """The page.

    Args:
        metrics: what `metrics.json` holds: hold-out and test metrics, measured costs, timings.
    """
    name = _title(result)
    curves = sensitivity_section(result)
    alone = result.plan == result.space.full  # nothing had to go: the curves are what was asked for
    return document(
        f"{name}, pruned",
        _header(result, name),
        _warnings(result),
        _cards(metrics),
        curves if alone else Markup(),
        _before_and_after(metrics),
        timings_section(metrics["timings"]),
        _plots(result, metrics),
        Markup() if alone else curves,
        curve_section(result, _shown_metric(result, metrics), metrics["holdout"]["final"]),
        _comparison(result, metrics),
        levels_section(result),
        _bars(result),
        shares_section(result),
        widths_section(result, metrics),
        _finetuning(result, metrics),
        _asked(result),
        _exclusions(result),
        how_to_load(result, metrics),
        tag("footer", "Made by Espalier. Everything on this page is also in metrics.json, "
            "plan.json and trials.json."),
    )  # fmt: skip


def _title(result: Result) -> str:
    manifest = result.evaluator.original.meta["manifest"]
    return str(result.spec.name or manifest.name)


def _shown_metric(result: Result, metrics: Metrics) -> str:
    """The metric of the search; what stands for it where there are no labels."""
    metric = str(result.spec.evaluation.metric)
    return metric if metric in metrics["holdout"]["original"] else "kl"


def _budget_words(result: Result) -> str:
    asked = result.spec.budget.limits()
    parts = []
    for name, limit in result.limits.items():
        given = f" ({asked[name]})" if isinstance(asked.get(name), str) else ""
        label = words.COSTS.get(name, name).lower()
        parts.append(f"{label} at most {words.cost_text(name, limit)}{given}")
    return ", ".join(parts)


def _header(result: Result, name: str) -> Markup:
    strategy = words.STRATEGIES.get(result.spec.strategy.name, result.spec.strategy.name)
    count = len(result.trials)
    line = f"{strategy}, {count} trial{'s' * (count != 1)}; {_budget_words(result)}."
    return tag("header", tag("h1", name), tag("p", line))


def _warnings(result: Result) -> Markup:
    if not result.warnings:
        return Markup()
    items = (tag("p", warning.message, class_="warning") for warning in result.warnings)
    return tag("section", tag("h2", "Warnings"), *items, class_="warnings")


def _card(what: str, value: str, source: str, *, first: bool = False) -> Markup:
    return tag(
        "div",
        tag("div", what, class_="what"),
        tag("div", value, class_="value"),
        tag("div", source, class_="from"),
        class_="card first" if first else "card",
    )


def _cards(metrics: Metrics) -> Markup:
    test, cost, timing = metrics["test"], metrics["cost"], metrics["timings"][0]
    if "top1" in test["after"]:
        before, after = (test[side]["top1"] for side in ("before", "after"))
        source = f"{words.metric_text('top1', before)} before"
        shown = _card("Test accuracy", words.metric_text("top1", after), source, first=True)
    else:
        value = words.metric_text("agreement", test["after"]["agreement"])
        shown = _card("Agreement with the original", value, "on the test split", first=True)
    cards = [shown]
    for name in ("macs", "params"):
        before, after = cost["before"][name], cost["after"][name]
        source = f"{words.cost_text(name, before)} to {words.cost_text(name, after)}"
        cards.append(_card(words.COSTS[name], words.change_text(before, after), source))
    cards.append(
        _card(
            f"Time {place_text(timing)}",
            words.change_text(1, timing["ratio"]),
            f"{interval_text(timing)} of the original's, at "
            f"{words.share_text(timing['macs_ratio'])} of the MACs",
        )
    )
    return tag("div", *cards, class_="cards")


def _before_and_after(metrics: Metrics) -> Markup:
    test, cost = metrics["test"], metrics["cost"]
    rows: list[tuple[str, ...]] = []
    for name in words.METRICS:
        if not test["before"].keys() & test["after"].keys() & {name}:
            continue
        before, after = test["before"][name], test["after"][name]
        if words.is_fraction(name):
            change = words.points_text(before, after)
        else:
            change = f"{after - before:+.4g}".replace("-", "−")
        rows.append(
            (words.METRICS[name], *(words.metric_text(name, v) for v in (before, after)), change)
        )
    for name, before in cost["before"].items():
        after = cost["after"][name]
        texts = (words.cost_text(name, before), words.cost_text(name, after))
        rows.append((words.COSTS.get(name, name), *texts, words.change_text(before, after)))
    note = (
        f"Measured on {metrics['test_examples']} test examples, which nothing before has seen, "
        f"after reloading the exported files in a fresh process ({_device(metrics)}). Costs are "
        "for one example."
    )
    if metrics["head"] is not None:
        note += (
            f" Both networks end in a {metrics['head']}: cross-entropy and divergence are computed "
            "from what feeds it."
        )
    return tag(
        "section",
        tag("h2", "Before and after"),
        tag("p", note),
        table(("", "Original", "Pruned", "Change"), rows),
    )


def _device(metrics: Metrics) -> str:
    return "on a GPU" if str(metrics["device"]).startswith("cuda") else "on a CPU, one thread"


def _ancestors(result: Result) -> Iterator[int]:
    """The winner and the trials that it started from, youngest first."""
    parents = {trial.proposal.number: trial.proposal.parent for trial in result.trials}
    number: int | None = result.winner
    while number is not None and number in parents:
        yield number
        number = parents.pop(number)


def _point(metric: str, cost: Mapping[str, int], found: Mapping[str, float]) -> Point | None:
    value = found.get(metric)
    return None if value is None or not math.isfinite(value) else Point(cost, value)


def _landscape(result: Result, metrics: Metrics) -> Landscape:
    metric = _shown_metric(result, metrics)
    holdout = metrics["holdout"]
    points = {
        trial.proposal.number: point
        for trial in result.trials
        if trial.proposal.levels_of is None  # those are of a part of the hold-out
        and (point := _point(metric, trial.outcome.cost, trial.outcome.metrics)) is not None
    }
    path = [points[number] for number in _ancestors(result) if number in points]
    scored = [
        (trial.proposal.number, trial.outcome.score, trial.outcome.cost)
        for trial in result.trials
        if trial.outcome.score is not None
    ]
    ahead = front_of(result.spec.strategy, scored) or ()
    return Landscape(
        metric=metric,
        original=Point(result.before, holdout["original"][metric]),
        trials=list(points.values()),
        path=path[::-1],
        final=_point(metric, result.after, holdout["final"]),
        control=_point(metric, result.control.cost, result.control.metrics),
        front=[points[number] for number in sorted(ahead) if number in points],
    )


def _plots(result: Result, metrics: Metrics) -> Markup:
    shown = _landscape(result, metrics)
    plots = [Markup(landscape(shown, name, limit)) for name, limit in result.limits.items()]
    better = "Higher" if words.is_fraction(shown.metric) else "Lower"
    note = (
        "Every trial on the hold-out, which scores the search and is neither trained on nor part "
        f"of the test. {better} is better; the budget admits what lies left of the line."
    )
    if result.spec.evaluation.racing:
        note += " Trials that a race gave up are shown as estimated from a part of it."
    if len(shown.path) > 1:
        note += " The thin line leads through the trials that the winner started from."
    return tag("section", tag("h2", "The search"), tag("p", note), *plots)


def _comparison(result: Result, metrics: Metrics) -> Markup:
    holdout = metrics["holdout"]
    found: list[tuple[str, Mapping[str, int], Mapping[str, float]]] = [
        ("Original", result.before, holdout["original"]),
        ("Uniform plan, not fine-tuned", result.control.cost, result.control.metrics),
        ("Winner in the search", result.after, holdout["untuned"]),
    ]
    if any(entry["epoch"] > 0 and not entry.get("diverged") for entry in result.history):
        found.append(("Winner, fine-tuned", result.after, holdout["final"]))
    shown = [name for name in words.METRICS if name in holdout["original"]]
    shown = [n for n in shown if n not in ("top5", "kl")] if "top1" in shown else shown
    limited = list(result.limits)
    rows = [
        (
            label,
            *(words.cost_text(name, cost[name]) for name in limited),
            *(words.metric_text(name, values[name]) if name in values else "–" for name in shown),
        )
        for label, cost, values in found
    ]
    head = ("", *(words.COSTS.get(n, n) for n in limited), *(words.METRICS[n] for n in shown))
    steps = {trial.proposal.number: trial.proposal.tuning_steps for trial in result.trials}
    tuned = sum(steps[number] for number in _ancestors(result))
    adds = "what the search adds"
    if tuned:
        adds += f" and what its winner learned in {tuned} steps of tuning, which the plan had not"
    return tag(
        "section",
        tag("h2", "Against the uniform plan"),
        tag("p", "The same budget met with one keep ratio for all groups, on the same hold-out. "
            f"Before fine-tuning, the distance to that row is {adds}."),
        table(head, rows),
    )  # fmt: skip


def _bars(result: Result) -> Markup:
    cells: list[Markup] = []
    for group, kept in zip(result.space.groups, result.kept, strict=True):
        share = len(kept) / group.channels
        whole = "whole" if len(kept) == group.channels else "cut"
        bar = tag("i", class_=whole, style=f"width:{100 * share:.2f}%")
        cells += [
            tag("div", group.name, class_="name", title=group.name),
            tag("div", bar, class_="bar"),
            tag("div", f"{len(kept)} of {group.channels}", class_="count"),
        ]
    return tag(
        "section",
        tag("h2", "Channels kept"),
        tag("p", "Each group is a set of channels that can only be cut together, named for the "
            "layer that makes them; groups that stayed whole are grey. The indices are in "
            "plan.json."),
        tag("div", *cells, class_="bars"),
    )  # fmt: skip


def _finetuning(result: Result, metrics: Metrics) -> Markup:
    metric = _shown_metric(result, metrics)
    values = [
        (int(entry["epoch"]), float(entry[metric]))
        for entry in result.history
        if isinstance(entry.get(metric), float)
    ]
    diverged = any(entry.get("diverged") for entry in result.history)
    if len(values) < 2 and not diverged:
        return Markup()
    original = float(metrics["holdout"]["original"][metric])
    kept = result.spec.finetune.keep
    note = f"On the hold-out after each epoch; the {kept} epoch is the one exported."
    if kept == "best" and metrics["holdout"]["final"] == metrics["holdout"]["untuned"]:
        note += (
            " None was better than the start. If the original was trained on the hold-out, it "
            "knows it by heart: bring a hold-out of your own, or set finetune.keep to last."
        )
    if diverged:
        note += " Training diverged and was stopped there: lower finetune.learning_rate."
    return tag(
        "section",
        tag("h2", "Fine-tuning"),
        tag("p", note),
        Markup(progress(metric, values, original)),
    )


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None
    )


def _asked(result: Result) -> Markup:
    spec = result.spec.model_dump(mode="json")
    strategy = spec["strategy"]
    name = strategy.pop("name")
    rows = [
        ("Network", spec["network"]),
        ("Dataset", spec["dataset"]),
        ("Budget", _budget_words(result)),
        ("Strategy", f"{words.STRATEGIES.get(name, name)}: {_settings(strategy)}".rstrip(": ")),
        ("Criterion", result.spec.ranking),
        ("Rounding", _settings(spec["rounding"])),
        ("Evaluation", _settings(spec["evaluation"])),
        ("Fine-tuning", _settings(spec["finetune"])),
        ("Seed", spec["seed"]),
    ]
    return tag("section", tag("h2", "What was asked"), table(("", ""), rows, class_="words"))


def _exclusions(result: Result) -> Markup:
    left_out = (*result.without_choice, *result.space.excluded)
    if not left_out:
        return Markup()
    rows = [(item.name, item.channels, item.reason) for item in left_out]
    return tag(
        "section",
        tag("h2", "What stayed out of the search"),
        table(("Name", "Channels", "Why"), rows, class_="words"),
    )
