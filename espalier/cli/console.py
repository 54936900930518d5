"""What all commands share: the connection, how errors and numbers are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from espalier.client import DEFAULT_URL, Client
from espalier.errors import ApiError
from espalier.format.errors import EspalierError

_WIDE = 160  # columns where no terminal says how many: tables in a file are not cut
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="ESPALIER_URL",
        help="Where the service is.",
        show_default=True,
    ),
]
URL = DEFAULT_URL

COSTS = {
    "macs": "MACs",
    "params": "parameters",
    "weight_bytes": "weight bytes",
    "peak_activation_bytes": "peak activation bytes",
}


_NAME = 12  # columns that a name has at least, if it is so long


def listing(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of which only the column "name" is broken, and nothing cut: ids are copied.

    Where a terminal is too narrow for that, it breaks the lines by itself.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, no_wrap=title != "name", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    widths = [
        min(width, _NAME) if title == "name" else width
        for title, width in zip(titles, widths, strict=True)
    ]
    least = sum(widths) + 3 * len(widths) + 1  # a space at each side, and one between
    table.width = least if least > out.width else None
    out.print(table)


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """An error is one line on standard error and exit code 1; for a programmer's eyes nothing."""
    try:
        yield
    except EspalierError as error:
        fail(str(error), error)
    except TimeoutError as error:
        fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client, with errors shown as lines."""
    with errors_as_lines(), Client(url, attempts=4) as client:
        yield client


def fail(message: str, error: EspalierError | None = None, *, code: int = 1) -> NoReturn:
    """Print `error: message` and end with `code`: 1 for what went wrong, 2 for wrong usage."""
    err.print(f"[bold red]error:[/] {escape(message)}")
    fields = error.errors if isinstance(error, ApiError) else []
    for field in fields if len(fields) > 1 else []:
        err.print(f"  [bold]{escape(field['field'])}[/]: {escape(field['message'])}")
    raise typer.Exit(code)


@contextmanager
def transfer(label: str) -> Iterator[Progress]:
    """A bar for bytes; nothing if standard error is no terminal."""
    columns = (
        TextColumn(escape(label)),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        yield bar


def interactive() -> bool:
    """Whether a person is looking: a terminal that can redraw lines."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def count(value: float) -> str:
    """1234567 as `1.23 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.4g}"


def size(value: float) -> str:
    """Bytes, as `1.2 MiB`."""
    for step, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{int(value)} B"


def ago(moment: str) -> str:
    """A time in ISO 8601, as `3 min ago`."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for step, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= step:
            return f"{seconds / step:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def quantity(name: str, value: float) -> str:
    """A cost, in its unit."""
    return size(value) if name.endswith("_bytes") else count(value)


def reasons(title: str, items: Sequence[dict[str, Any]]) -> Table:
    """Channels that stay, by name, and why."""
    table = Table(title, "channels", "because", box=box.SIMPLE_HEAD)
    for item in items:
        table.add_row(escape(item["name"]), str(item["channels"]), escape(item["reason"]))
    return table
