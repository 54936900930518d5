"""What the recorded runs of `benchmarks.methods` say: tables, correlations, and a plot."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.allotment import METHODS
from benchmarks.record import RESULTS
from benchmarks.subjects import SUBJECTS

FOLDER = RESULTS / "methods"
PLOT = FOLDER / "curves.svg"
HEAD = ["method, reconstruction", "seeds", "MACs", "parameters", "hold-out", "no FT", "FT"]
HEAD += ["evaluations", "images", "search, CPU s"]
METRICS = ("top1", "cross_entropy", "agreement", "kl")
_RESAMPLES = 2_000
_ACROSS = 3  # plots side by side
Record = dict[str, Any]
Floats = NDArray[np.float64]


def recorded(name: str, folder: Path = FOLDER) -> list[Record]:
    """The runs of a file; none if it is not there."""
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def grouped(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The searches of each method and variant, in the order of the methods, `none` first."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: int(record["seed"])):
        if record["method"] in METHODS:
            found[record["method"], record["variant"]].append(record)
    order = list(METHODS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and half the range unless all are the same."""
    mean = f"{sum(values) / len(values):,.{digits}f}"
    return (
        mean if len(set(values)) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"
    )


FOLDERS = {
    "methods": "50 %",
    "methods30": "30 %",
    "methods2048": "50 %, 2,048 images to calibrate on",
}
"""Of results, with the budget and what else differs."""


def summary() -> tuple[list[str], list[list[str]], list[Record]]:
    """Test top-1 without fine-tuning, a row a network and budget, a column a method."""
    columns = [("uniform", "none"), *((method, "parallel") for method in METHODS)]
    columns = [column for column in columns if column[0] != "netadapt_tuned"]
    head = ["network, MACs", "original"]
    head += [m if v != "none" else f"{m}, no reconstruction" for m, v in columns]
    rows, records = [], []
    for name in SUBJECTS:
        for folder, words in FOLDERS.items():
            found = recorded(name, RESULTS / folder)
            runs = grouped(found)
            if not runs:
                continue
            records += found
            original = [r["test"]["top1"] for r in found if r["method"] == "original"]
            cells = [f"{name}, {words}", spread([100 * value for value in original])]
            for column in columns:
                values = [100 * run["test"]["untuned"]["top1"] for run in runs.get(column, [])]
                seeds = f" ({len(values)})" if len(values) > 1 else ""
                cells.append(spread(values, 1) + seeds if values else "")
            rows.append(cells)
    return head, rows, records


def _percent(records: Sequence[Record], read: Callable[[Record], float]) -> str:
    return spread([100 * read(record) for record in records])


def searches(name: str) -> tuple[list[str], list[list[str]], list[Record]]:
    """The table of one network: head, rows, and the records that it is made of."""
    records = recorded(name)
    (original,) = [record for record in records if record["method"] == "original"]
    top1 = f"{100 * original['test']['top1']:.2f}"
    blank = ["", "", ""]
    score = f"{100 * original['holdout']['top1']:.2f}"
    rows = [["original", "", "100 %", "100 %", score, top1, top1, *blank]]
    for (method, variant), runs in grouped(records).items():
        cost = [
            f"{100 * np.mean([run['cost'][key] for run in runs]) / original['cost'][key]:.1f} %"
            for key in ("macs", "params")
        ]
        tuned = all("final" in run["test"] for run in runs)
        rows.append(
            [
                f"{method}, {variant}",
                str(len(runs)),
                *cost,
                _percent(runs, lambda run: run["holdout"]["untuned"]["top1"]),
                _percent(runs, lambda run: run["test"]["untuned"]["top1"]),
                _percent(runs, lambda run: run["test"]["final"]["top1"]) if tuned else "",
                spread([run["evaluations"] for run in runs], 0),
                spread([run["images"] for run in runs], 0),
                spread([run["search"]["cpu_s"] for run in runs], 0),
            ]
        )
    return HEAD, rows, records


# --- does a score predict the accuracy after fine-tuning? -----------------------------------------


def correlate(
    scores: Floats, accuracies: Floats, kind: Callable[[Floats, Floats], float]
) -> tuple[float, float, float]:
    """A correlation and its 95 % interval, from resampling the plans (percentile bootstrap).

    Args:
        scores: `(plans,)`, as `accuracies`.
    """
    generator = np.random.default_rng(0)
    found: list[float] = []
    while len(found) < _RESAMPLES:
        picked = generator.integers(0, len(scores), len(scores))
        if np.ptp(scores[picked]) > 0 and np.ptp(accuracies[picked]) > 0:
            found.append(kind(scores[picked], accuracies[picked]))
    low, high = np.percentile(found, [2.5, 97.5])
    return kind(scores, accuracies), float(low), float(high)


def _pearson(x: Floats, y: Floats) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Floats, y: Floats) -> float:
    """The correlation of the ranks, ties sharing theirs."""
    from scipy.stats import rankdata

    return _pearson(rankdata(x), rankdata(y))


def correlations() -> tuple[list[str], list[list[str]], list[Record]]:
    """The table of score against fine-tuned accuracy over random plans: head, rows, records."""
    head = ["network, reconstruction, score", "plans", "top-1 before FT", "top-1 after FT"]
    head += ["Spearman", "Pearson"]
    rows, records = [], []
    for name in SUBJECTS:
        plans: dict[str, list[Record]] = defaultdict(list)
        for record in recorded(f"{name}-plans"):
            plans[record["variant"]].append(record)
            records.append(record)
        for variant, runs in sorted(plans.items()):
            before, after = (
                np.array([run[split][stage]["top1"] for run in runs])
                for split, stage in (("holdout", "untuned"), ("test", "final"))
            )
            for metric in METRICS:
                scores = np.array([run["holdout"]["untuned"][metric] for run in runs])
                scores = -scores if metric in ("cross_entropy", "kl") else scores
                cells = [
                    "{:.2f} ({:.2f} to {:.2f})".format(*correlate(scores, after, kind))
                    for kind in (spearman, _pearson)
                ]
                spans = [f"{100 * x.min():.1f} to {100 * x.max():.1f}" for x in (before, after)]
                rows.append([f"{name}, {variant}, {metric}", str(len(runs)), *spans, *cells])
    return head, rows, records


# --- best score against evaluations ---------------------------------------------------------------


def best_so_far(trials: Sequence[tuple[float | None, bool]]) -> Floats:
    """The best score within the budget after each trial, NaN before there is one.

    Args:
        trials: score and whether the plan is within the budget, in the order they were made.
    """
    scores = [score if within and score is not None else -np.inf for score, within in trials]
    best = np.maximum.accumulate(np.array(scores, dtype=np.float64))
    return np.where(np.isfinite(best), best, np.nan)


def plot(path: Path = PLOT) -> None:
    """Write the curves of all networks, the mean over seeds with the range as a band."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    networks = [name for name in SUBJECTS if grouped(recorded(name))]
    if not networks:
        return
    pyplot.rcParams.update({"svg.hashsalt": "methods", "svg.fonttype": "none", "font.size": 8})
    lines = -(-len(networks) // _ACROSS)
    figure, axes = pyplot.subplots(
        lines, _ACROSS, figsize=(4 * _ACROSS, 3.2 * lines), squeeze=False
    )
    for axis in axes.flat[len(networks) :]:
        axis.remove()
    for axis, name in zip(axes.flat, networks, strict=False):
        found = grouped(recorded(name))
        colours = {method: f"C{index}" for index, method in enumerate(METHODS)}
        for (method, variant), runs in found.items():
            curves = [best_so_far(run["trials"]) for run in runs]
            length = min(map(len, curves))
            stack = np.array([curve[:length] for curve in curves])
            seen = ~np.isnan(stack).any(0)
            x, y = np.arange(1, length + 1)[seen], stack[:, seen]
            style = {"color": colours[method], "linestyle": ":" if variant == "none" else "-"}
            style["drawstyle"] = "steps-post"
            label = method if variant != "none" else f"{method}, none"
            if length == 1:
                axis.axhline(float(y.mean()), label=label, linewidth=0.8, **style)
                continue
            marker = "o" if len(x) < 5 else ""
            axis.plot(x, y.mean(0), label=label, linewidth=1, marker=marker, markersize=3, **style)
            band = {"color": colours[method], "alpha": 0.15, "linewidth": 0}
            axis.fill_between(x, y.min(0), y.max(0), step="post", **band)
        axis.set(title=name, xlabel="evaluations", ylabel="best score within the budget")
        axis.legend(fontsize=6, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
