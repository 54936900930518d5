"""All files of a finished job, verified in a fresh process before they are handed out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from espalier.format.build import load
from espalier.format.lift import pack
from search.evaluation.checkpoint import write_tensors
from search.evaluation.metrics import outputs
from search.export.curve import curve_facts, points_of, points_summary
from search.export.levels import has_levels, levels_facts
from search.export.onnx import export_onnx
from search.export.plan import plan_facts
from search.export.report import report
from search.export.result import Result
from search.export.sensitivity import has_curves, sensitivity_facts, sensitivity_svg
from search.export.timings import little_saved
from search.export.verify import VerificationFailed, verify
from search.export.widths import widths_facts
from search.records import JobWarning

SCHEMA_VERSION = 2
"""Of `metrics.json`, see docs/metrics.md: grows when a field changes its meaning or goes."""

_REFERENCE = 256  # hold-out examples whose outputs the exports must reproduce
_ORIGINAL = 8  # of them, on which the original's ONNX file, which is only timed, is compared

MEDIA_TYPES: Mapping[str, str] = {
    "network.espalier": "application/vnd.espalier.network+zip",
    "network.onnx": "application/vnd.onnx",
    "plan.json": "application/json",
    "metrics.json": "application/json",
    "trials.json": "application/json",
    "report.html": "text/html; charset=utf-8",
}
"""The files of a result, in the order in which they are listed."""

SENSITIVITY_TYPES: Mapping[str, str] = {
    "sensitivity.json": "application/json",
    "sensitivity.svg": "image/svg+xml",
}
"""What comes with them where the strategy measured sensitivity curves."""

LEVELS_TYPES: Mapping[str, str] = {"levels.json": "application/json"}
"""What comes with them where the strategy goes by the losses of single groups."""

CURVE_TYPES: Mapping[str, str] = {"curve.json": "application/json"}
"""What comes with them where the search gave networks of several costs."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    name: str
    path: Path
    media_type: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished job hands out.

    Attributes:
        summary: the figures that the job shows.
        warnings: what looks wrong in what was measured of the files.
    """

    files: tuple[WrittenFile, ...]
    summary: dict[str, Any]
    warnings: tuple[JobWarning, ...]


def _json(path: Path, values: object) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_results(
    result: Result,
    folder: Path,
    *,
    original: Path,
    dataset: Path,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,  # noqa: ARG005
) -> Written:
    """Write, reload and measure everything that the user downloads.

    Args:
        folder: an empty folder for the files of `MEDIA_TYPES`, and of the other types here where
            they apply.
        original: the package that the job began with.
        dataset: the job's data file.
        progress: told what is being done, and the fraction of it all.

    Raises:
        OnnxExportFailed: ONNX cannot carry the network, or differs.
        VerificationFailed: the reloaded files are not what was in memory, cost something else
            than the plan, or exceed the budget.
    """
    evaluator = result.evaluator
    feed, indices = evaluator.examples("holdout")
    inputs = feed.inputs(indices[:_REFERENCE])
    manifest = evaluator.original.meta["manifest"]
    network = result.network.to(evaluator.device).eval()
    with torch.inference_mode():
        logits = outputs(network, inputs).cpu()
    final = evaluator.measure(network, "holdout")
    progress("package", 0.0)
    package, onnx = folder / "network.espalier", folder / "network.onnx"
    network = network.cpu()
    pack(
        network,
        inputs[:2].cpu(),
        package,
        preprocessing=manifest.preprocessing,
        classes=manifest.classes,
        name=manifest.name,
        extra={"pruned": {"plan": list(result.plan), "strategy": result.spec.strategy.name}},
    )
    progress("onnx", 0.2)
    origin = {
        "espalier.preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "espalier.classes": list(manifest.classes),
    }
    export_onnx(network, inputs, onnx, origin)
    progress("verify", 0.4)
    measured = _verified(result, package, onnx, inputs, logits, original=original, dataset=dataset)
    progress("report", 0.9)
    fitted = result.staircase is not None and bool(result.staircase.seconds)
    timing, full = measured["timings"][0], result.space.full
    warnings = little_saved(timing, full, result.plan, fitted=fitted)
    result = replace(result, warnings=(*result.warnings, *warnings))
    summary = _summary(result, measured)
    facts = plan_facts(result.space, result.kept, result.without_choice) | widths_facts(result)
    _json(folder / "plan.json", facts)
    _json(folder / "trials.json", _trials(result))
    metrics = _metrics(result, final, measured)
    _json(folder / "metrics.json", metrics | summary)
    (folder / "report.html").write_text(report(result, metrics), encoding="utf-8")
    kinds = dict(MEDIA_TYPES)
    if has_curves(result):
        facts = sensitivity_facts(result)
        _json(folder / "sensitivity.json", facts)
        plot = sensitivity_svg(facts, background="white")
        (folder / "sensitivity.svg").write_text(plot, encoding="utf-8")
        kinds |= SENSITIVITY_TYPES
    if has_levels(result):
        _json(folder / "levels.json", levels_facts(result))
        kinds |= LEVELS_TYPES
    if points_of(result):
        _json(folder / "curve.json", curve_facts(result, final))
        kinds |= CURVE_TYPES
    progress("report", 1.0)
    files = tuple(WrittenFile(name, folder / name, kind) for name, kind in kinds.items())
    return Written(files, summary, warnings)


def _verified(
    result: Result,
    package: Path,
    onnx: Path,
    inputs: torch.Tensor,
    logits: torch.Tensor,
    *,
    original: Path,
    dataset: Path,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        spec, reference = Path(name) / "spec.json", Path(name) / "reference.safetensors"
        original_onnx = Path(name) / "original.onnx"
        export_onnx(load(original), inputs[:_ORIGINAL], original_onnx, {})
        spec.write_text(result.spec.model_dump_json(), encoding="utf-8")
        write_tensors(reference, {"logits": logits.contiguous()})
        measured = verify(
            package=package,
            onnx=onnx,
            original=original,
            original_onnx=original_onnx,
            dataset=dataset,
            spec=spec,
            reference=reference,
        )
    for what, expected in (("before", result.before), ("after", result.after)):
        if measured["cost"][what] != dict(expected):
            raise VerificationFailed(
                f"the reloaded network costs {measured['cost'][what]}, the plan {dict(expected)}"
            )
    for name, limit in result.limits.items():
        if measured["cost"]["after"][name] > limit:
            raise VerificationFailed(
                f"the reloaded network needs {measured['cost']['after'][name]} {name}, above the "
                f"budget of {limit}"
            )
    return measured


def _summary(result: Result, measured: Mapping[str, Any]) -> dict[str, Any]:
    test = measured["test"]
    summary: dict[str, Any] = {
        "strategy": result.spec.strategy.name,
        "metric": result.spec.evaluation.metric,
    }
    if "top1" in test["after"]:
        summary["test_accuracy"] = {side: test[side]["top1"] for side in ("before", "after")}
    summary["test_agreement"] = test["after"]["agreement"]
    for name, before in measured["cost"]["before"].items():
        summary[name] = {"before": before, "after": measured["cost"]["after"][name]}
    summary["timings"] = measured["timings"]
    summary["uniform"] = {
        "plan": list(result.control.plan),
        "cost": dict(result.control.cost),
        "holdout": dict(result.control.metrics),
    }
    summary["trials"] = len(result.trials)
    summary["winner"] = result.winner
    if points := points_summary(result):
        summary["points"] = points
    summary["warnings"] = [warning.to_json() for warning in result.warnings]
    summary["verified"] = measured["verified"]
    return summary


def _metrics(
    result: Result, final: Mapping[str, float], measured: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "holdout": {
            "original": result.evaluator.baseline(),
            "untuned": _untuned(result),
            "final": dict(final),
        },
        **measured,
        "head": result.evaluator.scores.kind,
        "limits": dict(result.limits),
        "finetuning": [dict(entry) for entry in result.history],
    }


def _untuned(result: Result) -> dict[str, float]:
    """Hold-out metrics of the winner as the search scored it."""
    for trial in result.trials:
        if trial.proposal.number == result.winner:
            return dict(trial.outcome.metrics)
    raise ValueError(f"trial {result.winner} is not in the history")


def _trials(result: Result) -> dict[str, Any]:
    return {
        "groups": [group.name for group in result.space.groups],
        "winner": result.winner,
        "trials": [
            {
                "number": trial.proposal.number,
                "plan": list(trial.proposal.plan),
                "parent": trial.proposal.parent,
                "tuning_steps": trial.proposal.tuning_steps,
                "tags": dict(trial.proposal.tags),
                "score": trial.outcome.score,
                "metrics": dict(trial.outcome.metrics),
                "cost": dict(trial.outcome.cost),
            }
            for trial in result.trials
        ],
    }
