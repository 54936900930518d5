"""A small network trained on scikit-learn's digits, packed and loaded: real input for the tests."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from espalier.format.build import graph_of, load
from espalier.format.lift import pack
from espalier.format.manifest import Manifest, Preprocessing
from search.evaluation.data import Dataset, load_dataset
from search.evaluation.evaluator import Evaluator
from search.graph import space_of
from search.space import Kept, SearchSpace
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec, RoundingSpec
from search.strategy_specs import NetAdaptSpec


class DigitsNet(nn.Module):
    """Two convolutions with a shortcut around the second, dropout, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 20, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(20)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(x + self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(x)))
        result: Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return result


@dataclass(frozen=True)
class Digits:
    """A packed network, its data and what follows from them."""

    package: Path
    data: Path
    network: GraphModule
    space: SearchSpace
    manifest: Manifest
    dataset: Dataset


def raw() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """1797 images `(8, 8)` uint8 of 0 to 16, and their labels."""
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


def _train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(images)), 64):
                optimizer.zero_grad()
                loss = functional.cross_entropy(network(images[part]), labels[part])
                torch.autograd.backward(loss)
                optimizer.step()
    network.eval()


@functools.cache
def digits() -> Digits:
    """Trained for a few epochs, once a process."""
    images, labels = raw()
    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DigitsNet()
    preprocessing = Preprocessing(scale=1 / 16, mean=(0.3,), std=(0.4,))
    inputs = (torch.from_numpy(images)[:, None].float() / 16 - 0.3) / 0.4
    _train(network, inputs[:1000], torch.from_numpy(labels)[:1000], 12)
    package = pack(
        network,
        inputs[:2],
        folder / "digits.espalier",
        preprocessing=preprocessing,
        classes=tuple(map(str, range(10))),
    )
    np.savez(folder / "digits.npz", images=images, labels=labels)
    loaded = load(package)
    manifest: Any = loaded.meta["manifest"]
    return Digits(
        package,
        folder / "digits.npz",
        loaded,
        space_of(graph_of(loaded)),
        manifest,
        load_dataset(folder / "digits.npz"),
    )


def job(**changes: Any) -> JobSpec:
    """A specification for `digits()`."""
    fields: dict[str, Any] = {
        "network": "n",
        "dataset": "d",
        "budget": BudgetSpec(macs="50%"),
        "strategy": NetAdaptSpec(),
        "evaluation": EvaluationSpec(calibration=128, holdout=300, batch_size=64),
        "finetune": FineTuneSpec(epochs=2, batch_size=64, learning_rate=0.05),
        "rounding": RoundingSpec(multiple=1),
    }
    return JobSpec(**{**fields, **changes})


BARE = EvaluationSpec(
    calibration=256, holdout=300, batch_size=64, reconstruction="none", recalibration="plain"
)
"""Nothing is done to a cut network but plain recalibration."""


def evaluator(spec: JobSpec | None = None, dataset: Dataset | None = None) -> Evaluator:
    what = digits()
    return Evaluator(
        what.network, what.space, dataset or what.dataset, what.manifest, spec or job()
    )


def kept(share: float) -> Kept:
    """The first channels of each group."""
    return tuple(
        tuple(range(max(1, round(share * group.channels)))) for group in digits().space.groups
    )


def unlabelled() -> Dataset:
    """The digits without their labels."""
    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    np.savez(folder / "unlabelled.npz", images=raw()[0])
    return load_dataset(folder / "unlabelled.npz")
