"""`espalier networks`, `datasets` and `describe`: what was uploaded, and what a file holds."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from espalier.cli.console import (
    COSTS,
    URL,
    Url,
    ago,
    connected,
    err,
    errors_as_lines,
    fail,
    listing,
    out,
    quantity,
    reasons,
    size,
)
from espalier.cli.submitting import known
from espalier.cli.widths import target_text
from espalier.format.archive import is_package
from espalier.format.errors import EspalierError

_SPLITS = {"train": "training", "holdout": "hold-out", "test": "test"}
Limit = Annotated[int, typer.Option(min=1, help="The most to show.")]
AsJson = Annotated[bool, typer.Option("--json", help="As the service says it.")]

_HEADS = {
    "softmax": "probabilities (softmax)",
    "log_softmax": "logarithms of probabilities (log_softmax)",
    "sigmoid": "probabilities of each class by itself (sigmoid)",
    "logsigmoid": "logarithms of probabilities of each class by itself (logsigmoid)",
}


def _shape(values: list[int]) -> str:
    return "x".join(map(str, values)) or "scalar"


def _kind(given: str) -> str:
    """Whether a file or an id is a network's or a dataset's; of a file what is in it tells."""
    path = Path(given)
    if not path.is_file():
        return "dataset" if given.startswith("data_") else "network"
    return "network" if path.suffix == ".espalier" or is_package(path) else "dataset"


class Refused(EspalierError):
    """A file that cannot be used; `code` is that of the service's problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _examined(kind: str, path: Path) -> dict[str, Any]:
    """What a service would tell of a file, but for the id.

    Raises:
        Refused: it would refuse it.
    """
    command = [sys.executable, "-P", "-m", "search.examination", kind, str(path.absolute())]
    done = subprocess.run(  # noqa: S603  (our own command)
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        fail(f"{path} could not be examined, for the reason above: report it")
    found: dict[str, Any] = json.loads(done.stdout)
    if "code" in found:
        raise Refused(found["code"], f"{path}: {found['message']}")
    name = found["name"] or path.name
    return {**found, "name": name, "size_bytes": path.stat().st_size}


def _show_title(view: dict[str, Any]) -> None:
    """Name, and the id of what is in a service."""
    out.print("  ".join([f"[bold]{escape(view['name'])}[/]", *filter(None, [view.get("id")])]))


def _show_network(view: dict[str, Any]) -> None:
    """What it is, what it costs, what can be pruned and what cannot."""
    about = view["description"]
    _show_title(view)
    for word in ("inputs", "outputs"):
        shown = ", ".join(
            f"{item['name']} {_shape(item['shape'])} {item['dtype']}" for item in about[word]
        )
        head = about.get("head") if word == "outputs" else None
        yields = f": {_HEADS.get(head, head)}; jobs go by what feeds it" if head else ""
        out.print(f"{word}: {escape(shown)}{yields}")
    for note in about.get("notes", ()):
        out.print(f"note: {escape(note)}")
    costs = Table("cost", "now", "smallest reachable", box=box.SIMPLE_HEAD)
    for name, label in COSTS.items():
        now, least = about["cost"][name], about["smallest_cost"][name]
        share = f" ({100 * least / now:.3g} %)" if now else ""
        costs.add_row(label, quantity(name, now), quantity(name, least) + share)
    out.print(costs)
    _show_groups(view)
    if about["excluded"]:
        out.print(reasons("stays whole", about["excluded"]))


def _show_groups(view: dict[str, Any]) -> None:
    """What can be pruned, with the share of the MACs, and of the time where it is known."""
    about, shares = view["description"], view.get("shares")
    total, target = about["cost"]["macs"], (shares or {}).get("target")
    table = Table("channel group", box=box.SIMPLE_HEAD)
    for head in ("channels", "MACs", *(["time"] if target else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for index, group in enumerate(about["groups"]):
        share = shares["groups"][index] if shares else {}
        macs = share.get("macs", group["macs"] / total if group.get("macs") and total else None)
        cells = [macs, *([share["time"]] if target else [])]
        percents = ("" if cell is None else f"{100 * cell:.1f} %" for cell in cells)
        table.add_row(escape(group["name"]), str(group["channels"]), *percents)
    out.print(table)
    out.print("MACs: of the layers that make or read a group; layers between two count for both")
    if target:
        out.print(escape(f"time: of the same layers in {target_text(target)}"))


def _splits(about: dict[str, Any]) -> str:
    """`800 training, 200 test`."""
    counts = {word: about.get(f"{split}_examples") for split, word in _SPLITS.items()}
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count is not None)


def _show_dataset(view: dict[str, Any]) -> None:
    """Its examples, splits and labels."""
    about = view["description"]
    _show_title(view)
    out.print(f"examples: {_shape(about['example_shape'])} {about['dtype']}, {about['kind']}")
    out.print(f"splits: {_splits(about)}")
    if not about["labelled"]:
        out.print("labels: none; use the metric agreement")
    else:
        out.print(f"labels: 0 to {about['largest_label']}")
    if about["classes"]:
        out.print(f"classes: {escape(', '.join(about['classes']))}")


def _list(
    views: Iterator[dict[str, Any]],
    limit: int,
    as_json: bool,
    titles: tuple[str, ...],
    cells: Callable[[dict[str, Any]], tuple[str, ...]],
) -> None:
    """Id, name, the cells of the kind, size and age of each."""
    found = list(itertools.islice(views, limit))
    if as_json:
        out.print_json(data=found)
        return
    if not found:
        err.print("nothing was uploaded; `espalier submit` sends files")
        return
    rows = [
        (
            view["id"],
            view["name"],
            *cells(view["description"]),
            size(view["size_bytes"]),
            ago(view["created_at"]),
        )
        for view in found
    ]
    listing(("id", "name", *titles, "size", "uploaded"), rows)


def register(app: typer.Typer) -> None:
    @app.command()
    def networks(limit: Limit = 20, as_json: AsJson = False, url: Url = URL) -> None:
        """List the uploaded networks, the newest first."""

        def cells(about: dict[str, Any]) -> tuple[str, ...]:
            cost = about["cost"]
            costs = (quantity(name, cost[name]) for name in ("macs", "params"))
            return (*costs, str(len(about["groups"])))

        with connected(url) as client:
            titles = (COSTS["macs"], COSTS["params"], "channel groups")
            _list(client.networks(), limit, as_json, titles, cells)

    @app.command()
    def datasets(limit: Limit = 20, as_json: AsJson = False, url: Url = URL) -> None:
        """List the uploaded datasets, the newest first."""

        def cells(about: dict[str, Any]) -> tuple[str, ...]:
            return (f"{_shape(about['example_shape'])} {about['dtype']}", _splits(about))

        with connected(url) as client:
            _list(client.datasets(), limit, as_json, ("one example", "splits"), cells)

    @app.command()
    def describe(
        given: Annotated[
            str,
            typer.Argument(
                metavar="FILE_OR_ID",
                help="A package or a dataset's file, or the id of a network or dataset.",
            ),
        ],
        as_json: AsJson = False,
        url: Url = URL,
    ) -> None:
        """Show a network's costs, what of it can be pruned, what not and why; or what data hold.

        A file is looked at here and not sent: no service has to run.
        """
        kind = _kind(given)
        show = _show_network if kind == "network" else _show_dataset
        known(kind, given)
        if Path(given).is_file():
            with errors_as_lines():
                view = _examined(kind, Path(given))
        else:
            with connected(url) as client:
                view = client.network(given) if kind == "network" else client.dataset(given)
                if kind == "network":
                    view = {**view, "shares": client.network_shares(given)}
        if as_json:
            out.print_json(data=view)
        else:
            show(view)
