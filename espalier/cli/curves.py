"""`espalier sensitivity`: how much each channel group can lose, as a result of its own."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from espalier.cli.console import URL, Url, connected, fail, out
from espalier.cli.submitting import check_fields, known, sent, settings
from espalier.cli.watching import follow
from espalier.client import Client
from espalier.connection import url_of

_COLUMNS = 9  # levels that a line has room for
_IN_POINTS = frozenset({"top1", "top5", "agreement"})
_HEAT = ((0.6, "bold red"), (0.35, "red"), (0.15, "yellow"))  # of the largest drop, as its root


def job_of(levels: int, metric: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The job that measures curves and cuts nothing, with any other fields on top."""
    spec: dict[str, Any] = {
        "budget": {"macs": "100%"},
        "strategy": {"name": "sensitivity", "levels": levels},
        "finetune": {"epochs": 0},
        "evaluation": {} if metric is None else {"metric": metric},
        "rounding": {"multiple": 1},  # curves of all widths, not of those that run fast
    }
    for field, value in given.items():
        if isinstance(value, dict) and isinstance(spec.get(field), dict):
            spec[field] = {**spec[field], **value}
        else:
            spec[field] = value
    return spec


def _drop(facts: dict[str, Any], point: dict[str, Any] | None, most: float) -> Text:
    if point is None:
        return Text("")
    if point["drop"] is None:
        return Text("failed", style="bold red")
    drop = point["drop"]
    share = math.sqrt(max(drop, 0.0) / most) if most else 0.0
    style = next((style for least, style in _HEAT if share > least), "")
    if facts["metric"] in _IN_POINTS:
        shown = f"{100 * drop:.1f}"
    else:  # to a thousandth of the largest
        shown = f"{drop:.{min(9, max(0, 3 - math.floor(math.log10(most or 1))))}f}"
    return Text(shown if float(shown) else shown.removeprefix("-"), style=style)


def curves_table(facts: dict[str, Any]) -> Table:
    """Groups by levels: the drop, and the share of the MACs that the narrowest width saves."""
    groups = facts["groups"]
    levels = sorted({p["level"] for group in groups for p in group["points"]}, reverse=True)
    levels = levels[:: max(1, math.ceil(len(levels) / _COLUMNS))]
    most = max([p["drop"] or 0.0 for group in groups for p in group["points"]], default=0.0)
    metric = facts["metric"]
    change = f"Drop in {metric}, points," if metric in _IN_POINTS else f"Rise in {metric}"
    table = Table(
        title=f"{change} with so much of one group removed",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("channel group", no_wrap=True)
    table.add_column("channels", justify="right")
    for level in levels:
        table.add_column(f"{100 * (1 - level):.3g} %", justify="right", no_wrap=True)
    table.add_column("MACs saved", justify="right", no_wrap=True)
    full = facts["original"]["cost"]["macs"]
    for group in groups:
        at = {point["level"]: point for point in group["points"]}
        least = min((point["cost"]["macs"] for point in group["points"]), default=full)
        table.add_row(
            escape(group["name"]),
            str(group["channels"]),
            *(_drop(facts, at.get(level), most) for level in levels),
            f"{100 * (1 - least / full):.1f} %" if full else "",
        )
    return table


def _show(client: Client, job: str) -> None:
    facts = client.sensitivity(job)
    out.print(curves_table(facts))
    out.print("MACs saved: by the narrowest width measured, of the whole network's.")
    allocated, groups = facts["allocated"], facts["groups"]
    if allocated and allocated["plan"] != [group["channels"] for group in groups]:
        kept = (f"{g['name']} {n}" for g, n in zip(groups, allocated["plan"], strict=True))
        out.print(f"The plan that the curves lead to: {escape(', '.join(kept))}")
    plot = url_of("jobs", job, "artifacts", "sensitivity.svg")
    out.print(f"The plot: {client.url}{plot}, and in report.html")


def register(app: typer.Typer) -> None:
    @app.command()
    def sensitivity(
        network: Annotated[str, typer.Argument(help="A package file, or a network's id.")],
        dataset: Annotated[str, typer.Argument(help="A dataset's file, or its id.")],
        levels: Annotated[
            int, typer.Option(min=1, max=99, help="Widths measured of each group.")
        ] = 9,
        metric: Annotated[
            str | None, typer.Option(help="top1 (the default), top5, cross_entropy or agreement.")
        ] = None,
        set_: Annotated[
            list[str],
            typer.Option(
                "--set",
                metavar="FIELD=VALUE",
                help="Any other field of the job, as evaluation.holdout=5000 or criterion=l2.",
            ),
        ] = [],  # noqa: B006  (typer copies it)
        url: Url = URL,
    ) -> None:
        """Measure how much each channel group can lose on its own; the network stays as it is."""
        given = settings(set_)
        if not isinstance(given.get("strategy", {}), dict):
            fail("--set strategy=...: this command's strategy is sensitivity", code=2)
        spec = job_of(levels, metric, given)
        known("network", network)
        known("dataset", dataset)
        with connected(url) as client:
            check_fields(client, spec)
            spec["network"] = sent(client, "network", network)["id"]
            spec["dataset"] = sent(client, "dataset", dataset)["id"]
            job = client.submit(spec)["id"]
            follow(client, job)
            _show(client, job)
