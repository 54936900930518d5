"""A process that makes one step of fine-tuning of the demo's network, and compares its gradients.

`python -m tests.evaluation.demo_gradients THREADS` prints, as JSON, by how much the gradient of
each parameter differs from a plain one in float64, relative to its norm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.digits import save_digits, train
from espalier.format.build import graph_of, load
from espalier.format.lift import pack
from espalier.format.manifest import Preprocessing
from search.evaluation.data import load_dataset
from search.evaluation.evaluator import Evaluator
from search.evaluation.finetune import FineTuner
from search.graph import space_of
from search.pruning import clone
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec
from search.strategy_specs import NetAdaptSpec

WIDTHS = (6, 16, 32, 32, 23, 64)


def differences(folder: Path) -> dict[str, float]:
    arrays = save_digits(folder / "digits.npz")
    package = pack(
        train(arrays["train_images"], arrays["train_labels"], epochs=1),
        torch.zeros(1, 1, 8, 8),
        folder / "digits.espalier",
        preprocessing=Preprocessing(scale=1 / 255),
    )
    original = load(package)
    spec = JobSpec(
        network="network",
        dataset="digits",
        budget=BudgetSpec(macs="50%"),
        strategy=NetAdaptSpec(),
        evaluation=EvaluationSpec(calibration=64, holdout=1100),
        # All examples are one batch, so that their order does not matter.
        finetune=FineTuneSpec(epochs=1, batch_size=4096, augment="none", distillation=0.0),
        seed=0,
    )
    evaluator = Evaluator(
        original,
        space_of(graph_of(original)),
        load_dataset(folder / "digits.npz"),
        original.meta["manifest"],
        spec,
    )
    kept = tuple(tuple(range(width)) for width in WIDTHS)
    network = evaluator.network(kept)
    right = clone(network).double().train()
    tuner = FineTuner(network, evaluator, seed=0)
    tuner.run(max_seconds=0)

    feed, indices = evaluator.examples("tuning")
    loss = functional.cross_entropy(
        right(feed.inputs(indices).double()),
        feed.labels(indices),
        label_smoothing=spec.finetune.label_smoothing,
    )
    loss.backward()  # type: ignore[no-untyped-call]
    found = {}
    for (name, ours), theirs in zip(network.named_parameters(), right.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        found[name] = float((ours.grad - theirs.grad).norm() / theirs.grad.norm())
    return found


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(differences(Path(folder))))
