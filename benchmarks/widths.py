"""What the widths that a target likes bring in time, and cost in accuracy, at equal MACs.

    python -m benchmarks.widths --networks cifar10_resnet20a_holdout --seeds 0 1 2

For each network, seed, strategy and `rounding.multiple` (1, 8 and auto): a search for half the
MACs with the defaults, no fine-tuning; the winner and the original are written as ONNX, timed in
turns in onnxruntime and OpenVINO (one thread, batches of 1 and 32), and measured on the test split,
once.

Every finished run is a line in `benchmarks/results/widths/NETWORK.jsonl`; what is there is not run
again. Times of layers are measured by the first job of each network, and taken over by the others,
as the service does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.compression import Clock, Compression
from benchmarks.record import RESULTS, described
from benchmarks.subjects import SUBJECTS, Subject
from espalier.runtimes import RUNTIMES
from espalier.targets import RuntimeName
from espalier.timing import paired
from search.context import context_of
from search.evaluation.metrics import finite
from search.export.onnx import export_onnx
from search.spec import JobSpec
from search.steps import tuner_of

WORK = Path("var/benchmarks/widths")
OUT = RESULTS / "widths"
MULTIPLES = (1, 8, "auto")
TIMED: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")
BATCHES = (1, 32)
_MOST_S = 20.0  # of one timing


def spec_of(subject: Subject, strategy: str, multiple: int | str, seed: int) -> JobSpec:
    """The defaults, but for what is compared."""
    return JobSpec.model_validate(
        {
            "network": subject.name,
            "dataset": subject.name,
            "budget": {"macs": "50%"},
            "strategy": {"name": strategy},
            "rounding": {"multiple": multiple},
            "evaluation": {"metric": subject.metric},
            "finetune": {"epochs": 0},
            "seed": seed,
        }
    )


def timings(run: Compression, pruned: torch.fx.GraphModule) -> list[dict[str, Any]]:
    """The pruned network's file beside the original's, in each runtime and batch."""
    context = context_of(run.inputs, run.files)
    feed, indices = context.evaluator.examples("holdout")
    inputs = feed.inputs(indices[: max(BATCHES)]).cpu()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "original.onnx", Path(folder) / "pruned.onnx"]
        for network, path in zip((context.network, pruned), files, strict=True):
            export_onnx(network, inputs, path, {})
        for name in TIMED:
            for batch in BATCHES:
                some = inputs[:batch].numpy()
                first, second = (RUNTIMES[name].prepare(path, some) for path in files)
                timing = paired(first, second, most_s=_MOST_S)
                version = RUNTIMES[name].version()
                about = {"runtime": name, "version": version, "threads": 1, "batch": batch}
                found.append(about | timing.to_json())
    return found


def one(subject: Subject, strategy: str, multiple: int | str, seed: int) -> dict[str, Any]:
    """One job's winner, timed and tested; figures as JSON values."""
    package, data = subject.write(WORK / "inputs")
    folder, kept = (
        WORK / f"{subject.name}-{strategy}-{multiple}-{seed}",
        WORK / f"{subject.name}.json",
    )
    known = json.loads(kept.read_text()) if kept.exists() else {}
    clock = Clock()
    with clock.running():
        run = Compression(spec_of(subject, strategy, multiple, seed), package, data, folder, known)
    staircase = run.prepared.staircase
    if staircase is not None:
        kept.write_text(json.dumps(known | staircase.seconds))
    found = run.search()
    context = context_of(run.inputs, run.files)
    pruned = tuner_of(context, found.winner, None, run.files).network()
    outcome, original = found.winner.outcome, run.prepared.cost
    figures = {
        "network": subject.name,
        "weights": hashlib.sha256(package.read_bytes()).hexdigest(),
        "strategy": strategy,
        "multiple": multiple,
        "seed": seed,
        "plan": list(outcome.plan),
        "macs": outcome.cost["macs"] / original["macs"],
        "choices": run.prepared.choices,
        "measured": 0 if staircase is None else staircase.measured,
        "prepare": clock.rounded(),
        "search": found.clock.rounded(),
        "timings": timings(run, pruned),
        "test": {
            "original": finite(context.evaluator.measure(context.evaluator.original, "test")),
            "pruned": finite(context.evaluator.measure(pruned, "test")),
        },
    }
    run.clear()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, required=True)
    parser.add_argument("--strategies", nargs="+", default=["uniform", "allocate"])
    parser.add_argument("--multiples", nargs="+", default=[str(each) for each in MULTIPLES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in given.networks:
        path = OUT / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        keys = ("strategy", "multiple", "seed")
        known = {tuple(record[key] for key in keys) for record in map(json.loads, lines)}
        for seed in given.seeds:
            for strategy in given.strategies:
                for text in given.multiples:
                    multiple = text if text == "auto" else int(text)
                    if (strategy, multiple, seed) in known:
                        continue
                    figures = one(SUBJECTS[name], strategy, multiple, seed)
                    with path.open("a") as file:
                        file.write(json.dumps(described("benchmarks.widths", figures)) + "\n")
                    top1 = {key: value["top1"] for key, value in figures["test"].items()}
                    ratios = [round(timing["ratio"], 3) for timing in figures["timings"]]
                    print(name, strategy, multiple, seed, figures["macs"], top1, ratios, flush=True)


if __name__ == "__main__":
    main()
