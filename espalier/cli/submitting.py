"""`espalier submit`, and what it shares with other commands that take files and fields."""

from __future__ import annotations

import json
import math
import re
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
    connected,
    err,
    fail,
    out,
    quantity,
    reasons,
    transfer,
)
from espalier.cli.watching import follow
from espalier.cli.widths import show_widths
from espalier.client import Client
from espalier.errors import ApiError

_ID = re.compile(r"^(net|data)_[0-9a-z]{26}$")


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        fail(f"{option} {text}: write it as NAME=VALUE", code=2)
    return key.strip(), value.strip()


def budget(items: list[str]) -> dict[str, Any]:
    """`["macs=50%", "params=100000"]` as a specification's budget."""
    found: dict[str, Any] = {}
    for item in items:
        name, value = _pair(item, "--budget")
        if name not in COSTS:
            fail(f"--budget {item}: limit one of {', '.join(COSTS)}", code=2)
        number = value.replace("_", "").replace(",", "")
        if not number.isdecimal() and not re.fullmatch(r"\d+(\.\d+)?%", value):
            fail(f"--budget {item}: give a whole number, or a share as 50%", code=2)
        if not 0 < float(number.rstrip("%")) <= (100 if value.endswith("%") else math.inf):
            fail(f"--budget {item}: give at least 1, or a share above 0% and up to 100%", code=2)
        if name in found:
            fail(f"--budget {item}: {name} has a limit already: give each cost once", code=2)
        found[name] = int(number) if number.isdecimal() else value
    return found


def settings(items: list[str]) -> dict[str, Any]:
    """`["finetune.epochs=3"]` as nested fields; values are JSON, or else text."""
    found: dict[str, Any] = {}
    for item in items:
        path, value = _pair(item, "--set")
        *parents, last = path.split(".")
        if path in ("network", "dataset"):
            fail(f"--set {item}: the command takes the {path} by itself: see --help", code=2)
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                fail(f"--set {item}: {parent} was set to a value before", code=2)
        if last in inner:
            fail(f"--set {item}: {path} was set before: set it once", code=2)
        try:
            inner[last] = json.loads(value)
        except json.JSONDecodeError:
            inner[last] = value
        try:
            json.dumps(inner[last], allow_nan=False)
        except ValueError:
            fail(
                f"--set {item}: {path} takes finite numbers only: give one, or null where that "
                "switches it off, as with finetune.clip_norm",
                code=2,
            )
    if not isinstance(found.get("budget", {}), dict):
        fail("--set budget=...: name the cost, as --set budget.macs=50%", code=2)
    return found


def known(kind: str, given: str) -> None:
    """Fail unless it is a file or looks like an id, before anything is sent."""
    if not Path(given).is_file() and not _ID.match(given):
        fail(f"there is no file {given}, and it is no {kind}'s id: correct it", code=2)
    if kind == "dataset" and given.endswith(".espalier"):
        fail(f"{given} is a network's package: give the data to prune with", code=2)


def sent(client: Client, kind: str, given: str) -> dict[str, Any]:
    """The uploaded file, or the one that an id names."""
    path = Path(given)
    if not path.is_file():
        return client.network(given) if kind == "network" else client.dataset(given)
    upload = client.upload_network if kind == "network" else client.upload_dataset
    with transfer(f"uploading {path.name}") as bar:
        task = bar.add_task("", total=path.stat().st_size)
        view = upload(path, progress=lambda done, _: bar.update(task, completed=done))
    err.print(f"{kind} {view['id']} ({escape(view['name'])})")
    return view


def check_fields(client: Client, spec: dict[str, Any]) -> None:
    """Refuse what the specification alone gets wrong, before anything is sent.

    Without network and dataset the service cannot find them, if all else is right.
    """
    try:
        client.validate({**spec, "network": "", "dataset": ""})
    except ApiError as error:
        if error.code != "not_found":
            raise


def show_validation(found: dict[str, Any]) -> None:
    """What a job would do: the limits in absolute numbers, how much there is to decide."""
    limits = Table("cost", "limit", "now", "smallest reachable", box=box.SIMPLE_HEAD)
    for name, row in found["budget"].items():
        values = (quantity(name, row[key]) for key in ("limit", "original", "smallest"))
        limits.add_row(COSTS[name], *values)
    out.print(limits)
    if found["without_choice"]:
        out.print(reasons("has one width only", found["without_choice"]))
    if found["widths"] and found["widths"]["target"]:
        show_widths(found["widths"])
    if found["widths"] is None:
        out.print(
            "which widths run fast on the target follows from a measurement when the job is "
            "prepared; the smallest reachable costs are those of all widths"
        )
    strategy, groups = found["spec"]["strategy"]["name"], found["groups"]
    out.print(f"the job can be done: {strategy} on {groups} channel groups; nothing was started")


def register(app: typer.Typer) -> None:
    @app.command()
    def submit(
        network: Annotated[str, typer.Argument(help="A package file, or a network's id.")],
        data: Annotated[str, typer.Option(help="A dataset's file, or its id.")],
        budget_: Annotated[
            list[str],
            typer.Option(
                "--budget",
                metavar="COST=LIMIT",
                help="As macs=50% or params=100000; several hold at once. "
                f"Costs: {', '.join(COSTS)}.",
            ),
        ],
        strategy: Annotated[
            str,
            typer.Option(
                help="allocate, netadapt, amc, optuna, sensitivity, random, uniform; its settings "
                "by --set."
            ),
        ] = "allocate",
        set_: Annotated[
            list[str],
            typer.Option(
                "--set",
                metavar="FIELD=VALUE",
                help="Any other field, as finetune.epochs=3 or strategy.tuning_steps=20.",
            ),
        ] = [],  # noqa: B006  (typer copies it)
        name: Annotated[str | None, typer.Option(help="Shown in lists.")] = None,
        watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Send the files and check the job; start nothing."),
        ] = False,
        url: Url = URL,
    ) -> None:
        """Start a job: fit a network to a budget. Prints the job's id."""
        spec = settings(set_)
        chosen = spec.setdefault("strategy", {})
        if not isinstance(chosen, dict):
            fail("--set strategy=...: choose it with --strategy", code=2)
        spec["strategy"] = {"name": strategy, **chosen}
        limits, more = budget(budget_), spec.get("budget", {})
        for cost in limits.keys() & more.keys():
            fail(f"--set budget.{cost}: --budget limits it already: give each cost once", code=2)
        spec["budget"] = {**limits, **more}
        if name is not None:
            spec["name"] = name
        if watch and dry_run:
            fail(
                "--dry-run starts nothing that --watch could follow: leave one of them out", code=2
            )
        known("network", network)
        known("dataset", data)
        with connected(url) as client:
            check_fields(client, spec)
            spec["network"] = sent(client, "network", network)["id"]
            spec["dataset"] = sent(client, "dataset", data)["id"]
            if dry_run:
                show_validation(client.validate(spec))
                return
            job = client.submit(spec)
            out.print(job["id"])
            if watch:
                follow(client, job["id"])
            else:
                err.print(f"follow it with: espalier watch {job['id']}")
