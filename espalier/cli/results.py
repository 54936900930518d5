"""`espalier jobs`, `show` and `download`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from espalier.cli.console import COSTS, URL, Url, ago, connected, err, listing, out, size, transfer
from espalier.cli.summaries import summary_lines
from espalier.cli.watching import best_line, points_line, stage, warn
from espalier.cli.widths import prepared_lines


def _budget(spec: dict[str, Any]) -> str:
    limits = {name: limit for name, limit in spec["budget"].items() if limit is not None}
    return ", ".join(
        f"{COSTS[name]} {limit if isinstance(limit, str) else format(limit, ',')}"
        for name, limit in limits.items()
    )


def _show(view: dict[str, Any], files: list[dict[str, Any]]) -> None:
    out.print(f"[bold]{escape(view['name'] or 'job')}[/]  {view['id']}")
    spec = view["spec"]
    rows = {
        "state": f"{stage(view)}, {view['progress']:.0%}",
        "waits for": view["waiting_for"] or "",
        "strategy": spec["strategy"]["name"],
        "criterion": spec["criterion"] or "",
        "budget": _budget(spec),
        "network": spec["network"],
        "dataset": spec["dataset"],
        "created": ago(view["created_at"]),
        "trials": str(view["trials"]),
        "best": best_line(view).removeprefix("best: "),
    }
    if view["pause_requested"] and view["state"] != "paused" and not view["terminal"]:
        rows["state"] += " (pausing)"
    if view["error"]:
        rows["error"] = f"{view['error']['message']} [{view['error']['code']}]"
    for label, value in rows.items():
        if value:
            out.print(f"{label:<9} {escape(value)}")
    for index, line in enumerate(prepared_lines(view.get("widths"))):
        out.print(f"{'' if index else 'widths':<9} {escape(line)}")
    warn(view, set())
    for line in summary_lines(view["summary"] or {}):
        out.print(line)
    if line := points_line(view):
        out.print(line)
    for item in files:
        out.print(f"{size(item['size_bytes']):>10}  {item['sha256'][:12]}  {escape(item['name'])}")


def register(app: typer.Typer) -> None:
    @app.command()
    def jobs(
        state: Annotated[
            str | None,
            typer.Option(help="queued, running, paused, succeeded, failed, canceled ..."),
        ] = None,
        strategy: Annotated[str | None, typer.Option()] = None,
        network: Annotated[str | None, typer.Option(help="A network's id.")] = None,
        dataset: Annotated[str | None, typer.Option(help="A dataset's id.")] = None,
        name: Annotated[str | None, typer.Option()] = None,
        limit: Annotated[int, typer.Option(min=1, help="The most to show.")] = 20,
        as_json: Annotated[bool, typer.Option("--json", help="As the service says it.")] = False,
        url: Url = URL,
    ) -> None:
        """List jobs, the newest first."""
        with connected(url) as client:
            found = client.jobs(
                state=state, strategy=strategy, network=network, dataset=dataset, name=name
            )
            views = list(itertools.islice(found, limit))
        if as_json:
            out.print_json(data=views)
            return
        if not views:
            err.print(
                "no jobs; start one with: espalier submit NETWORK --data DATA --budget macs=50%"
            )
            return
        rows = [
            (
                view["id"],
                view["name"] or "",
                stage(view),
                f"{view['progress']:.0%}",
                view["spec"]["strategy"]["name"],
                _budget(view["spec"]),
                ago(view["created_at"]),
            )
            for view in views
        ]
        listing(("job", "name", "state", "", "strategy", "budget", "created"), rows)

    @app.command()
    def show(
        job: Annotated[str, typer.Argument(help="The job's id.")],
        as_json: Annotated[bool, typer.Option("--json", help="As the service says it.")] = False,
        url: Url = URL,
    ) -> None:
        """Show one job: its state, settings, results."""
        with connected(url) as client:
            view, files = client.job(job), client.artifacts(job)
        if as_json:
            out.print_json(data={**view, "artifacts": files})
        else:
            _show(view, files)

    @app.command()
    def download(
        job: Annotated[str, typer.Argument(help="The job's id.")],
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="Folder; JOB if left out.")
        ] = None,
        trial: Annotated[
            int | None,
            typer.Option(
                min=0,
                help="The network of this trial instead, always from its start; "
                "see `espalier trials`.",
            ),
        ] = None,
        url: Url = URL,
    ) -> None:
        """Fetch a job's results, checked against their digests; continues where it stopped."""
        folder = output or Path(job)
        with connected(url) as client, transfer("downloading") as bar:
            task = bar.add_task("", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            if trial is None:
                paths = client.download(job, folder, progress=progress)
            else:
                paths = [client.download_trial(job, trial, folder, progress=progress)]
        for path in paths:
            out.print(f"{size(path.stat().st_size):>10}  {escape(str(path))}")
