"""`espalier watch`: a job's stage, progress and best trial so far."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from espalier.cli.console import (
    COSTS,
    URL,
    Url,
    connected,
    err,
    fail,
    interactive,
    out,
    quantity,
)
from espalier.cli.summaries import share, summary_lines
from espalier.client import Client


def best_line(view: dict[str, Any]) -> str:
    """`best: trial 17, top1 91.20 %, 1.23 M MACs`; empty before there is one."""
    best = view.get("best")
    if not best:
        return ""
    metric = view["spec"]["evaluation"]["metric"]
    parts = [f"trial {best['number']}"]
    if metric in best["metrics"]:
        value = best["metrics"][metric]
        shown = f"{value:.4f}" if metric == "cross_entropy" else share(value)
        parts.append(f"{metric} {shown}")
    for name in view["spec"]["budget"]:
        if name in best["cost"] and view["spec"]["budget"][name] is not None:
            parts.append(f"{quantity(name, best['cost'][name])} {COSTS[name]}")
    return "best: " + ", ".join(parts)


def stage(view: dict[str, Any]) -> str:
    """What it is doing, in one word."""
    if view["state"] == "running" and view["stage"]:
        return str(view["stage"])
    return str(view["state"])


def news(view: dict[str, Any]) -> str:
    """What it waits for, if something keeps it from going on, else its best trial so far."""
    waiting = view["waiting_for"]
    return f"waits for {waiting}" if waiting else best_line(view)


def warn(view: dict[str, Any], told: set[str]) -> None:
    """Say each of the job's warnings once.

    Args:
        told: the messages that were said before; these are added.
    """
    for warning in view["warnings"]:
        if warning["message"] not in told:
            told.add(warning["message"])
            err.print(f"[yellow]warning:[/] {escape(warning['message'])}")


def _end(view: dict[str, Any]) -> None:
    """The last line, and the exit code: 0 only for success."""
    job, state = view["id"], view["state"]
    if state == "succeeded":
        for line in summary_lines(view["summary"] or {}):
            out.print(line)
        if line := points_line(view):
            out.print(line)
        out.print(f"[green]succeeded[/]; get the files with: espalier download {job}")
    elif state == "failed":
        error = view["error"] or {"message": "for a reason that was not recorded", "code": "?"}
        fail(f"job {job} failed: {error['message']} [{error['code']}]")
    else:
        fail(f"job {job} was canceled")


def points_line(view: dict[str, Any]) -> str:
    """Where the networks of other costs are; empty if there are none."""
    count = len((view["summary"] or {}).get("points", ()))
    if not count:
        return ""
    several = "s" * (count != 1)
    return f"{count} further network{several}, see: espalier trials {view['id']} --points"


def follow(client: Client, job: str) -> None:
    """Show a job until it ends; a bar on a terminal, else a line for each change of note."""
    view: dict[str, Any] = {}
    told: set[str] = set()
    if interactive():
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[best]}"),
        )
        with Progress(*columns, console=out) as bar:
            task = bar.add_task("", total=1.0, best="")
            for view in client.watch(job):
                warn(view, told)
                bar.update(
                    task,
                    description=stage(view),
                    completed=view["progress"],
                    best=escape(news(view)),
                )
    else:
        said = ""
        for view in client.watch(job):
            warn(view, told)
            line = f"{stage(view):<10} {view['progress']:4.0%}  {news(view)}".rstrip()
            if line != said and not view["terminal"]:
                said = line
                out.print(escape(line))
    _end(view)


def register(app: typer.Typer) -> None:
    @app.command()
    def watch(job: Annotated[str, typer.Argument(help="The job's id.")], url: Url = URL) -> None:
        """Follow a job to its end: stage, progress, the best trial so far.

        Exit code 0 if it succeeded, 1 if it failed or was canceled.
        """
        with connected(url) as client:
            follow(client, job)
