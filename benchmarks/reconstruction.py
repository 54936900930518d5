"""What reconstruction and recalibration are worth, alone and together, without a gradient step.

    python -m benchmarks.reconstruction --networks cifar10_resnet56a

Uniform plans ranked by L1 go through the service's evaluator once for every pair of
`evaluation.reconstruction` and `evaluation.recalibration`, and for every seed, which draws the
calibration images. The images that measure are always the same; none of the networks for CIFAR-10
and Fashion-MNIST was trained on them.

Writes `benchmarks/results/reconstruction/NETWORK.json`. One thread; times are of its CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

import espalier
from benchmarks import cifar, imagenet, networks, trained
from benchmarks.comparison import spread
from benchmarks.record import RESULTS, save
from espalier.format.build import graph_of, load
from espalier.format.manifest import Preprocessing
from search.context import Problem
from search.evaluation.data import load_dataset
from search.evaluation.evaluator import Evaluator
from search.evaluation.metrics import finite
from search.evaluation.recalibrate import tracked_norms
from search.pruning import clone, select
from search.space import Kept
from search.spec import BudgetSpec, JobSpec
from search.strategies.fitting import uniform_plan

FOLDER = Path("var/benchmarks/reconstruction")
RECONSTRUCTIONS = ("none", "parallel", "sequential")
RECALIBRATIONS = ("none", "plain", "relative")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        package: makes its package in a folder, or gives it.
        data: arrays with `train_*`, of which calibration draws, and `holdout_*`, which measure.
        calibration: how many images.
        measured_on: in words.
    """

    package: Callable[[Path], Path]
    data: Callable[[], Arrays]
    calibration: int
    measured_on: str


def _published(name: str, example: Tensor, preprocessing: Preprocessing, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    network = networks.published(name, cifar.folder())
    path = folder / f"{name}.espalier"
    return espalier.pack(network, example, path, name=name, preprocessing=preprocessing)


def _as_holdout(arrays: Arrays) -> Arrays:
    """Test images measure here."""
    return {name.replace("test_", "holdout_"): array for name, array in arrays.items()}


def _cifar(name: str, measured_on: str) -> Case:
    def data() -> Arrays:
        if name.endswith("holdout"):
            return cifar.dataset(name, 6_000, 0, holdout=10_000)
        return _as_holdout(cifar.dataset(name, 6_000, 0))

    package = partial(_published, name, cifar.EXAMPLE, cifar.PREPROCESSING)
    return Case(package, data, 512, measured_on)


def _imagenet(name: str, pixels: int, calibration: int, holdout: int) -> Case:
    def data() -> Arrays:
        arrays = imagenet.dataset(pixels, holdout=holdout, test=1, seed=0)
        return {key: array for key, array in arrays.items() if not key.startswith("test")}

    package = partial(_published, name, imagenet.example(pixels), imagenet.PREPROCESSING)
    return Case(package, data, calibration, f"{holdout} training images of ImageNet")


def _trained(name: str) -> Case:
    def data() -> Arrays:
        return _as_holdout(trained.dataset(6_000, 0))

    measured_on = "the 10,000 test images of Fashion-MNIST"
    return Case(lambda _: trained.package(name), data, 512, measured_on)


CASES = {
    "cifar10_resnet20a_holdout": _cifar(
        "cifar10_resnet20a_holdout", "10,000 training images that the network was not trained on"
    ),
    "cifar10_resnet56a": _cifar("cifar10_resnet56a", "1,000 test images"),
    "imagenet_mobilenet_v1_0.25_128": _imagenet("imagenet_mobilenet_v1_0.25_128", 128, 480, 480),
    "imagenet_mobilenet_v2_1.0_224": _imagenet("imagenet_mobilenet_v2_1.0_224", 224, 128, 256),
    "fashion_vit": _trained("fashion_vit"),
    "fashion_vgg": _trained("fashion_vgg"),
}


class Runs:
    """The runs on one network.

    Args:
        folder: for packages and data; what is there is used.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.case = name, CASES[name]
        self.network: GraphModule = load(self.case.package(folder))
        self.problem = Problem(graph_of(self.network))
        data = folder / f"{name}.npz"
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            np.savez(data, allow_pickle=False, **self.case.data())
        self.dataset = load_dataset(data)
        self.ways = RECALIBRATIONS if tracked_norms(self.network) else ("none",)
        self.measuring = self._evaluator("none", "none", 0)
        self._found: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)

    def _evaluator(self, reconstruction: str, recalibration: str, seed: int) -> Evaluator:
        assert self.dataset.holdout is not None
        fields = {
            "network": self.name,
            "dataset": self.name,
            "budget": {"macs": "50%"},
            "strategy": {"name": "uniform"},
            "evaluation": {
                "calibration": self.case.calibration,
                "holdout": len(self.dataset.holdout),
                "reconstruction": reconstruction,
                "recalibration": recalibration,
            },
            "seed": seed,
        }
        manifest = self.network.meta["manifest"]
        spec = JobSpec.model_validate(fields)
        return Evaluator(self.network, self.problem.space, self.dataset, manifest, spec)

    def kept(self, budget: str) -> Kept:
        """The channels that a uniform plan keeps."""
        spec = self.measuring.spec.model_copy(update={"budget": BudgetSpec(macs=budget)})
        limits, choices = self.problem.budget(spec), self.problem.choices(spec)
        plan = uniform_plan(self.problem.cost, limits, choices)
        return select(self.network, self.problem.space, plan, "l1", torch.Generator())

    def measure(self, budgets: Mapping[str, int]) -> dict[str, Any]:
        """All figures.

        Args:
            budgets: a share of the MACs, and how many seeds.
        """
        original = finite(self.measuring.baseline())
        print(self.name, "original", original, flush=True)
        cuts = {budget: self.kept(budget) for budget in budgets}
        times: dict[str, float] = {}
        for seed in range(max(budgets.values())):
            evaluators = {kind: self._evaluator(kind, "none", seed) for kind in RECONSTRUCTIONS}
            if not seed:
                times = _times(evaluators, list(cuts.values()))
            ways = {way: self._evaluator("none", way, seed) for way in self.ways}
            for budget, seeds in budgets.items():
                if seed < seeds:
                    for kind, evaluator in evaluators.items():
                        network = evaluator.network(cuts[budget])
                        self._recalibrated(network, cuts[budget], ways, (budget, kind), seed)
        return {
            "network": self.name,
            "measured_on": self.case.measured_on,
            "calibration": len(self.measuring.splits.calibration),
            "original": original,
            "cpu_s": times,
            "rows": [
                {"budget": budget, "reconstruction": kind, "recalibration": way, "metrics": found}
                for (budget, kind, way), found in self._found.items()
            ],
        }

    def _recalibrated(
        self,
        network: GraphModule,
        kept: Kept,
        ways: Mapping[str, Evaluator],
        what: tuple[str, str],
        seed: int,
    ) -> None:
        """Measure a network, recalibrated in each way."""
        for way, evaluator in ways.items():
            if way == what[1] == "none" and seed:
                continue  # depends on no calibration image
            result = clone(network)
            evaluator.recalibrate(result, kept)
            metrics = finite(self.measuring.measure(result, "holdout"))
            self._found[(*what, way)].append(metrics)
            print(self.name, *what, way, seed, metrics, flush=True)


def _times(evaluators: Mapping[str, Evaluator], cuts: Sequence[Kept]) -> dict[str, float]:
    """CPU seconds until a network is cut and reconstructed."""
    calls = {
        "none": ("none", cuts[0]),
        "parallel, first plan": ("parallel", cuts[0]),
        "parallel, another plan": ("parallel", cuts[-1]),
        "parallel, the same again": ("parallel", cuts[-1]),
        "sequential": ("sequential", cuts[0]),
    }
    times = {}
    for name, (kind, kept) in calls.items():
        started = time.process_time()
        evaluators[kind].network(kept)
        times[name] = round(time.process_time() - started, 3)
    print(times, flush=True)
    return times


# --- the tables -----------------------------------------------------------------------------------


def _recorded() -> list[dict[str, Any]]:
    """What was recorded, in the order of the cases."""
    paths = [RESULTS / "reconstruction" / f"{name}.json" for name in CASES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def worth() -> tuple[list[str], list[list[str]], list[dict[str, Any]]]:
    """Accuracy and KL divergence from the original: head, rows and records of the table."""
    head = ["network, MACs, reconstruction"]
    head += [f"top-1, {way}" for way in RECALIBRATIONS] + [f"KL, {way}" for way in RECALIBRATIONS]
    rows, records = [], _recorded()
    for record in records:
        name, blank = record["network"], [""] * (2 * len(RECALIBRATIONS) - 1)
        rows.append([f"{name}, original", f"{100 * record['original']['top1']:.2f}", *blank])
        found = {
            (row["budget"], row["reconstruction"], row["recalibration"]): row["metrics"]
            for row in record["rows"]
        }
        for budget, kind in dict.fromkeys((budget, kind) for budget, kind, _ in found):
            runs = [found.get((budget, kind, way), []) for way in RECALIBRATIONS]
            top1 = [spread([100 * run["top1"] for run in each]) if each else "" for each in runs]
            kl = [spread([run["kl"] for run in each], 3) if each else "" for each in runs]
            rows.append([f"{name}, {budget}, {kind}", *top1, *kl])
    return head, rows, records


def durations() -> tuple[list[str], list[list[str]]]:
    """CPU seconds of a cut with and without reconstruction: head and rows of the table."""
    records = _recorded()
    names = list(dict.fromkeys(name for record in records for name in record["cpu_s"]))
    rows = [
        [record["network"], str(record["calibration"])]
        + [f"{record['cpu_s'][name]:.2f}" for name in names]
        for record in records
    ]
    return ["network", "calibration images", *names], rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--budgets", nargs="+", default=["50%", "70%"], help="shares of the MACs")
    parser.add_argument(
        "--seeds", type=int, default=3, help="at the first of the budgets; one at the others"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (RESULTS / "reconstruction").mkdir(parents=True, exist_ok=True)
    budgets = {budget: 1 if at else options.seeds for at, budget in enumerate(options.budgets)}
    for name in options.networks:
        figures = Runs(name, options.folder).measure(budgets)
        print(save(f"reconstruction/{name}", "benchmarks.reconstruction", figures))


if __name__ == "__main__":
    main()
