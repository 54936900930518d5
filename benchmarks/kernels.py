"""Where most of the time of `allocate` and of fine-tuning goes, beside the plain way of each.

    python -m benchmarks.kernels

*Moments*: the products of a convolution's inputs (`search.reconstruction.correlation`) beside
unfolding the patches and multiplying them, for 128 images. *Fine-tuning*: steps of `FineTuner` on
ResNet-20 at half the MACs beside the same step as PyTorch runs it by itself: channels first, the
original's batch-norms not folded. Both in turns, the fastest of each; seconds are of CPU time, in
one thread. Writes `benchmarks/results/kernels.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.record import save
from benchmarks.subjects import SUBJECTS
from search.context import context_of
from search.evaluation.augment import augment
from search.evaluation.finetune import FineTuner
from search.evaluation.metrics import distance, outputs
from search.files import FolderFiles
from search.pruning import clone
from search.reconstruction.correlation import products
from search.reconstruction.layers import Layer
from search.records import Inputs
from search.spec import JobSpec
from search.strategies.fitting import uniform_plan

NETWORK = "cifar10_resnet20a_holdout"
WORK = Path("var/benchmarks/kernels")
SHAPES = ((16, 32), (32, 16), (64, 8), (96, 56), (256, 8))
"""Channels, and pixels a side, of 3 x 3 convolutions."""

_IMAGES = 128
_TURNS = 7


def fastest(*ways: Callable[[], object]) -> list[float]:
    """CPU seconds of the fastest run of each way, run in turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for turn in range(_TURNS + 1):
        for way, seconds in zip(ways, taken, strict=True):
            began = time.process_time()
            way()
            if turn:  # the first makes the kernels ready
                seconds.append(time.process_time() - began)
    return [min(seconds) for seconds in taken]


def moments(channels: int, pixels: int) -> dict[str, float]:
    """Seconds for one layer's products, by correlation and by unfolding."""
    layer = Layer(
        node="layer", source="x", weight="w", bias=None, norm=None, residual=None,
        kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = min(_IMAGES, 1 << 24 >> (pixels * pixels * channels).bit_length())
    x = torch.randn(images, channels, pixels, pixels, generator=generator).relu()
    x = x.contiguous(memory_format=torch.channels_last)

    def unfolded() -> Tensor:
        rows = layer.inputs(x)
        return rows.mT @ rows

    ours, theirs = fastest(lambda: products(layer, x), unfolded)
    return {"images": images, "ours_s": ours, "theirs_s": theirs, "ratio": theirs / ours}


def finetuning() -> dict[str, float]:
    """Images a second through a training step with distillation, ours and as PyTorch has it."""
    subject = SUBJECTS[NETWORK]
    files = FolderFiles(WORK / "files")
    fields = {
        "network": NETWORK,
        "dataset": NETWORK,
        "budget": {"macs": "50%"},
        "finetune": {"augment": subject.augment},
    }
    spec = JobSpec.model_validate(fields)
    package, data = (files.put(path) for path in subject.write(WORK / "inputs"))
    context = context_of(Inputs(spec, package, data), files)
    evaluator, problem = context.evaluator, context.problem
    plan = uniform_plan(problem.cost, problem.budget(spec), problem.choices(spec))
    kept = evaluator.choose(plan, torch.Generator().manual_seed(0))
    network = clone(evaluator.network(kept))
    tuner = FineTuner(clone(network), evaluator, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
    settings, part = spec.finetune, evaluator.splits.tuning[:_IMAGES]
    tuner.run(max_seconds=0)  # measures the start, then one step

    def plain() -> None:
        network.train()
        generator = torch.Generator().manual_seed(0)
        inputs = augment(evaluator.feed.inputs(part), settings.augment, generator)
        logits = outputs(network, inputs)
        loss = functional.cross_entropy(logits, evaluator.feed.labels(part))
        with torch.no_grad():
            wanted = outputs(evaluator.original, inputs)
        loss = loss + distance(logits, wanted, settings.temperature)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm or 5.0)
        optimizer.step()

    ours, theirs = fastest(lambda: tuner.run(max_seconds=0), plain)
    return {
        "ours_images_per_s": settings.batch_size / ours,
        "theirs_images_per_s": len(part) / theirs,
        "ratio": theirs * settings.batch_size / len(part) / ours,
    }


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "moments": [
            {"channels": channels, "pixels": pixels, **moments(channels, pixels)}
            for channels, pixels in SHAPES
        ],
        "finetuning": finetuning(),
    }
    print(save("kernels", "benchmarks.kernels", figures), figures)


if __name__ == "__main__":
    main()
