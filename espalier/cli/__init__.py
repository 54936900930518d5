"""The command line: `espalier pack | serve | submit | jobs | watch | download | ...`."""

from __future__ import annotations

import typer

from espalier.cli import (
    control,
    curves,
    describing,
    packing,
    results,
    serving,
    submitting,
    trials,
    watching,
)

app = typer.Typer(
    name="espalier",
    help="Makes trained neural networks smaller and faster, to a budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
packing.register(app)
serving.register(app)
submitting.register(app)
describing.register(app)
curves.register(app)
watching.register(app)
results.register(app)
trials.register(app)
control.register(app)

__all__ = ["app"]
