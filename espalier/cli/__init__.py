"""The command line: `espalier pack | serve | submit | jobs | watch | download | ...`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from espalier.cli import (
    control,
    curves,
    describing,
    packing,
    results,
    serving,
    submitting,
    targets,
    trials,
    watching,
)
from espalier.cli.console import out

app = typer.Typer(
    name="espalier",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(version("espalier"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Makes trained neural networks smaller and faster, to a budget."""


packing.register(app)
serving.register(app)
submitting.register(app)
describing.register(app)
targets.register(app)
curves.register(app)
watching.register(app)
results.register(app)
trials.register(app)
control.register(app)

__all__ = ["app"]
