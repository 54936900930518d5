"""`espalier targets`: what networks can be run and timed on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from espalier.cli.console import URL, Url, ago, connected, err, out


def register(app: typer.Typer) -> None:
    @app.command()
    def targets(
        as_json: Annotated[bool, typer.Option("--json", help="As the service says it.")] = False,
        url: Url = URL,
    ) -> None:
        """List what networks can be run and timed on: the runtimes on the workers' devices."""
        with connected(url) as client:
            found = client.targets()
        if as_json:
            out.print_json(data=found)
            return
        if not found:
            err.print("no worker has offered a target yet: is one running?")
            return
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("runtime", "version", "device", "is", "offered"):
            table.add_column(title, no_wrap=title != "is")
        for view in found:
            device = view["device"]
            offered = "now" if view["offered"] else ago(view["seen_at"])
            cells = (view["runtime"], view["version"], device["id"], device["name"], offered)
            table.add_row(*(escape(str(cell)) for cell in cells))
        out.print(table)
