"""What fine-tuning makes of good and of poor starts, by learning rate and distillation.

    python -m benchmarks.finetuning --networks fashion_vgg fashion_vit

Two starts at half the MACs: the winner of `allocate`, and the uniform plan by L1, solved in
parallel. Each is fine-tuned with every setting, all else by default. Only networks with a hold-out
that they were never trained on; the test split is not touched, since settings are chosen here.

Writes `benchmarks/results/finetuning/NETWORK.json`; what is there is not run again. One thread; one
run takes about two minutes on a ResNet-20.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocate import Bench
from benchmarks.record import RESULTS, described
from benchmarks.subjects import SUBJECTS, Subject
from search.evaluation.evaluator import Evaluated
from search.evaluation.finetune import FineTuner
from search.spec import FineTuneSpec
from search.strategies.fitting import uniform_plan
from search.strategy_specs import AllocateSpec

FOLDER = RESULTS / "finetuning"
_FIELDS = ("learning_rate", "distillation", "temperature")
SETTINGS = (
    (0.02, 0.0, 1.0),
    (0.02, 0.5, 2.0),
    (0.005, 0.5, 2.0),
    (0.002, 0.9, 4.0),
    (0.005, 0.9, 4.0),
    (0.02, 0.9, 4.0),
    (0.05, 0.9, 4.0),
)
"""Learning rate, weight of the original's outputs, their temperature."""

Figures = dict[str, Any]


def starts(bench: Bench) -> dict[str, Evaluated]:
    """A good and a poor start, as they were scored."""
    levels = bench.levels(bench.evaluator)
    strategy, trials = bench.play(AllocateSpec(), 0.5, levels=levels)
    plan = uniform_plan(bench.problem.cost, bench.budget(0.5), bench.choices)
    return {
        "allocate": trials[strategy.best][1],
        "uniform": bench.evaluator.evaluate(bench.kept(plan, bench.by_norm)),
    }


def tuned(bench: Bench, start: Evaluated, spec: FineTuneSpec) -> list[Figures]:
    """The history of one fine-tuning, on the hold-out."""
    evaluator = bench.evaluator
    evaluator.spec = evaluator.spec.model_copy(update={"finetune": spec})
    network = evaluator.network(start.kept, (start.kept, start.state) if start.state else None)
    tuner = FineTuner(network, evaluator, seed=bench.seed)
    tuner.run()
    return tuner.history


def run(subject: Subject, figures: Figures, path: Path) -> None:
    """Add what is missing to the figures, and to the file after every run."""
    runs = figures.setdefault("runs", [])
    done = {(each["start"], *(each[field] for field in _FIELDS)) for each in runs}
    bench = Bench(subject, seed=0, calibration=1024)
    for start, found in starts(bench).items():
        for setting in SETTINGS:
            if (start, *setting) in done:
                continue
            chosen = dict(zip(_FIELDS, setting, strict=True))
            spec = FineTuneSpec.model_validate({**chosen, "augment": subject.augment})
            history = tuned(bench, found, spec)
            runs.append({"start": start, **chosen, "epochs": spec.epochs, "history": history})
            path.write_text(json.dumps(figures, indent=1) + "\n")
            print(subject.name, start, chosen, history[-1]["top1"], history[-1]["kl"], flush=True)


def worth() -> tuple[list[str], list[list[str]], list[Figures]]:
    """The table: head, rows, and the records that it is made of."""
    head = ["network, start", "before", *(f"{r}, {d}, {t:g}" for r, d, t in SETTINGS)]
    rows, records = [], []
    for path in sorted(FOLDER.glob("*.json")):
        figures = json.loads(path.read_text())
        records.append(figures)
        for start in dict.fromkeys(each["start"] for each in figures["runs"]):
            runs = [each for each in figures["runs"] if each["start"] == start]
            ends = {tuple(each[f] for f in _FIELDS): each["history"][-1] for each in runs}
            cells = [_cell(ends[s]) if s in ends else "" for s in SETTINGS]
            rows.append([f"{figures['network']}, {start}", _cell(runs[0]["history"][0]), *cells])
    return head, rows, records


def _cell(metrics: Figures) -> str:
    if metrics.get("diverged"):
        return "diverged"
    return f"{100 * metrics['top1']:.1f} ({metrics['cross_entropy']:.3f}, {metrics['kl']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        path = FOLDER / f"{name}.json"
        figures = json.loads(path.read_text()) if path.exists() else {}
        figures |= described("benchmarks.finetuning", {"network": name})
        run(SUBJECTS[name], figures, path)


if __name__ == "__main__":
    main()
