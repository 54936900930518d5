"""The curve of `allocate` beside all other searches' at the same budgets, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks import allocate, learners
from benchmarks.allocate import SHARES
from benchmarks.comparison import spread

Figures = dict[str, Any]


def curves() -> tuple[list[str], list[list[str]], list[Figures]]:
    """The curve's table: test top-1 of each strategy at each budget."""
    head = ["network, strategy", *(f"{share:.0%}" for share in SHARES)]
    rows, records = [], []
    for network, runs in allocate.recorded().items():
        runs = [run for run in runs if run.get("curve")]
        records += runs
        learned = [learners.recorded(network, run["seed"]) for run in runs]
        records += [search for found in learned for search in found]
        points = [[*run["curve"], *found] for run, found in zip(runs, learned, strict=True)]
        for name in dict.fromkeys(entry["name"] for found in points for entry in found):
            cells = []
            for share in SHARES:
                # The plan of a budget is the one of the highest cost within it.
                best: list[Figures] = [
                    max((e for e in found if _within(e, name, share)), key=_macs, default={})
                    for found in points
                ]
                values = [100 * entry["test"]["top1"] for entry in best if entry]
                cells.append(spread(values) if values else "")
            rows.append([f"{network}, {name}", *cells])
    return head, rows, records


def _within(entry: Figures, name: str, share: float) -> bool:
    """Whether an entry is a strategy's and at a budget, a tenth below it at most."""
    macs: float = entry["macs"]
    return bool(entry["name"] == name and share - 0.1 < macs <= share + 1e-6)


def _macs(entry: Figures) -> float:
    macs: float = entry["macs"]
    return macs
