"""`espalier trials` and `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from espalier.cli.console import COSTS, URL, Url, connected, err, out, size, transfer

_SHOWN = ("macs", "params")


def _none(kept: bool, front: bool, points: bool) -> str:
    """Why there is nothing to show."""
    if points:
        return (
            "no points yet: allocate and the sampler nsga2 have them, as many as strategy.points "
            "says"
        )
    if front and kept:
        return "no trial on a front is kept yet"
    if front:
        return "no front: only a search with several objectives has one"
    return "no trial is kept yet" if kept else "no trials yet"


def _tags(trial: dict[str, Any], groups: list[str]) -> str:
    """What the strategy says of a trial; in words what `allocate` made it for.

    Args:
        groups: names of the channel groups.
    """
    match trial["tags"]:
        case {"final": _}:
            return "finalist"
        case {"group": int(group), **others} if not others:
            return f"losses of {groups[group]}"
        case tags:
            return ", ".join(f"{name} {value}" for name, value in sorted(tags.items()))


def _on_curve(found: list[dict[str, Any]], best: int | None) -> list[dict[str, Any]]:
    """The winner and the points, by rising cost; nothing without points."""
    points = [trial for trial in found if "point" in trial["tags"]]
    winner = [trial for trial in found if trial["number"] == best and points]
    return sorted(winner + points, key=lambda trial: trial["cost"].get("macs", 0))


def _score(trial: dict[str, Any]) -> str:
    return trial["state"] if trial["score"] is None else f"{trial['score']:.4f}"


def _show(view: dict[str, Any], about: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """One line a trial; costs as shares of the original's.

    Args:
        about: description of the network.
    """
    full, groups = about["cost"], [group["name"] for group in about["groups"]]
    limited = [name for name, limit in view["spec"]["budget"].items() if limit is not None]
    names = [name for name in COSTS if name in _SHOWN or name in limited]
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("trial", "from", *(COSTS[name] for name in names)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(view["spec"]["evaluation"]["metric"] + " score", justify="right", no_wrap=True)
    allocated = view["spec"]["strategy"]["name"] == "allocate"
    if allocated:  # which goes by it
        table.add_column("divergence", justify="right", no_wrap=True)
    several = any(trial["front"] is not None for trial in found)
    if several:
        table.add_column("front", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    table.add_column("tags")
    best = (view["best"] or {}).get("number")
    for trial in found:
        cost = trial["cost"]
        shares = (f"{100 * cost[n] / full[n]:.1f} %" if n in cost else "" for n in names)
        table.add_row(
            str(trial["number"]),
            "" if trial["parent"] is None else str(trial["parent"]),
            *shares,
            _score(trial),
            *([f"{trial['metrics']['kl']:.3g}" if "kl" in trial["metrics"] else ""] * allocated),
            *(["yes" if trial["front"] else ""] if several else []),
            "yes" if trial["kept"] else "",
            escape(_tags(trial, groups)),
            style="bold" if trial["number"] == best else None,
        )
    out.print(table)


def register(app: typer.Typer) -> None:
    @app.command()
    def trials(
        job: Annotated[str, typer.Argument(help="The job's id.")],
        kept: Annotated[
            bool, typer.Option("--kept", help="Only those whose networks can be fetched.")
        ] = False,
        front: Annotated[
            bool,
            typer.Option("--front", help="Only those that no other beats in all objectives."),
        ] = False,
        points: Annotated[
            bool,
            typer.Option("--points", help="Only the winner and the networks beside it."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="As the service says it.")] = False,
        url: Url = URL,
    ) -> None:
        """List a job's trials: where each began, its costs beside the original's, its score.

        The network of a trial that is kept comes with: espalier download JOB --trial NUMBER
        """
        with connected(url) as client:
            view = client.job(job)
            found = [
                trial
                for trial in client.trials(job)
                if (trial["kept"] or not kept) and (trial["front"] or not front)
            ]
            about = client.network(view["spec"]["network"])["description"]
        if points:
            found = _on_curve(found, (view["best"] or {}).get("number"))
        if as_json:
            out.print_json(data=found)
        elif found:
            _show(view, about, found)
        else:
            err.print(_none(kept, front, points))

    @app.command()
    def study(
        job: Annotated[str, typer.Argument(help="The job's id.")],
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="File; JOB-study.db if left out.")
        ] = None,
        url: Url = URL,
    ) -> None:
        """Fetch a job's trials as an Optuna study, for: optuna-dashboard sqlite:///FILE"""
        with connected(url) as client, transfer("downloading") as bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            path = client.download_study(job, output or f"{job}-study.db", progress=progress)
        out.print(f"{size(path.stat().st_size):>10}  {escape(str(path))}")
