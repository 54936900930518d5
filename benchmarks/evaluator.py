"""Scoring candidates on ResNet-56: a plain evaluator, and ours with one ingredient more at a time.

    python -m benchmarks.evaluator

Random plans at half the MACs, cut by L1 norm, 512 examples for batch-norm statistics, 1,000 that
score, one thread, no reconstruction. The plain evaluator is written here: a deep copy, cut, run
eagerly in float32, statistics in training mode batch after batch, the whole hold-out. All variants
score each plan in turn, so that load on the machine falls on all alike; times are of the processor.
Writes `benchmarks/results/evaluator.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, fx
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

import espalier
from benchmarks import cifar
from benchmarks.record import RESULTS, described, save
from espalier.format.build import load
from search.context import Problem as Network
from search.cost import Budget, choices_of
from search.evaluation.data import load_dataset
from search.evaluation.evaluator import Evaluator
from search.evaluation.inference import Inference
from search.evaluation.prefixes import Cache
from search.pruning import apply, select
from search.space import Kept, Plan
from search.spec import BudgetSpec, EvaluationSpec, JobSpec, RoundingSpec
from search.strategies.base import Problem
from search.strategies.random import random_plan
from search.versions import NEWEST

NETWORK = "cifar10_resnet56a"
CALIBRATION, HOLDOUT, FEW, BATCH, EXAMPLES = 512, 1000, 256, 128, 6000
RESAMPLES = 2000
PARTS = ("cutting", "ingredients", "race", "sweep", "round", "bfloat16")

Found = Mapping[str, float]
Score = Callable[[Kept], Found]
T = TypeVar("T")


class Plain:
    """What one would write without further thought."""

    def __init__(self, network: fx.GraphModule, evaluator: Evaluator) -> None:
        self._network, self._space = network, evaluator.space
        self._inputs, self._labels = {}, {}
        names: tuple[Literal["calibration", "holdout"], ...] = ("calibration", "holdout")
        for name in names:
            feed, indices = evaluator.examples(name)
            self._inputs[name] = feed.inputs(indices)
            self._labels[name] = feed.labels(indices)

    def recalibrate(self, network: fx.GraphModule) -> None:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.reset_running_stats()
                module.momentum = None
        network.train()
        with torch.no_grad():
            for part in torch.split(self._inputs["calibration"], BATCH):
                network(part)
        network.eval()

    def __call__(self, kept: Kept) -> Found:
        network = apply(copy.deepcopy(self._network), self._space, kept)
        self.recalibrate(network)
        with torch.no_grad():
            parts = torch.split(self._inputs["holdout"], BATCH)
            logits = torch.cat([network(part) for part in parts])
        labels = self._labels["holdout"]
        return {
            "cross_entropy": float(functional.cross_entropy(logits, labels)),
            "top1": float((logits.argmax(1) == labels).float().mean()),
        }


class Setting:
    """The network, its plans, and evaluators for it.

    Args:
        folder: where the network and the data are packed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        arrays = cifar.dataset(NETWORK, EXAMPLES, seed)
        np.savez(folder / "data.npz", allow_pickle=False, **arrays)
        package = espalier.pack(
            cifar.trained(NETWORK),
            cifar.EXAMPLE,
            folder / "network.espalier",
            name=NETWORK,
            preprocessing=cifar.PREPROCESSING,
        )
        self._package, self._dataset, self._seed = package, load_dataset(folder / "data.npz"), seed
        self.network = load(package)
        self._problem = Network(self.network.meta["espalier"])
        self.space = self._problem.space

    def evaluator(self, **changes: Any) -> Evaluator:
        spec = EvaluationSpec.model_validate(
            {
                "metric": "cross_entropy",
                "calibration": CALIBRATION,
                "holdout": HOLDOUT,
                "batch_size": BATCH,
                "reconstruction": "none",
                "recalibration": "plain",
                **changes,
            }
        )
        job = JobSpec(
            network="n",
            dataset="d",
            budget=BudgetSpec(macs="50%"),
            evaluation=spec,
            seed=self._seed,
        )
        network = load(self._package)
        made = Evaluator(network, self.space, self._dataset, network.meta["manifest"], job)
        made.baseline()
        return made

    def plans(self, count: int) -> list[Kept]:
        """Random plans within the budget."""
        cost = self._problem.cost
        budget = Budget({"macs": cost.full["macs"] // 2})
        choices = choices_of(self.space, RoundingSpec(multiple=1), NEWEST)
        problem = Problem(cost, budget, choices, self._seed, 0.0)
        return [self.kept(random_plan(problem, number)) for number in range(count)]

    def kept(self, plan: Plan) -> Kept:
        return select(self.network, self.space, plan, "l1", torch.Generator())

    def sweep(self, levels: Sequence[float], every: int) -> list[Kept]:
        """Single groups cut from the whole network, as a sensitivity sweep does."""
        full, found = self.space.full, []
        for group in range(0, len(full), every):
            for level in levels:
                width = max(1, round(level * full[group]))
                found.append(self.kept((*full[:group], width, *full[group + 1 :])))
        return found

    def round(self, every: int) -> list[Kept]:
        """Children of a parent at 0.8 of each width, as an iteration of NetAdapt has them."""
        parent = tuple(max(1, round(0.8 * width)) for width in self.space.full)
        found = []
        for group in range(0, len(parent), every):
            width = max(1, parent[group] // 2)
            found.append(self.kept((*parent[:group], width, *parent[group + 1 :])))
        return found


class Timed(Generic[T]):
    """A way to score, with the results and the seconds of each plan."""

    def __init__(self, score: Callable[[T], Found]) -> None:
        self._score = score
        self.found: list[Found] = []
        self.seconds: list[float] = []

    def __call__(self, what: T) -> None:
        started = time.process_time()
        self.found.append(self._score(what))
        self.seconds.append(time.process_time() - started)

    def values(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([found[name] for found in self.found])


def agreement(ours: Timed[T], plain: Timed[T], name: str, seed: int) -> dict[str, Any]:
    """Rank correlation over the plans, with the 95 % interval of a bootstrap over them."""
    a = ours.values(name)
    b = plain.values(name)[: len(a)]
    rng = np.random.default_rng(seed)
    picks = [rng.integers(len(a), size=len(a)) for _ in range(RESAMPLES)]
    drawn = np.array([spearmanr(a[pick], b[pick]).statistic for pick in picks])
    return {
        "spearman": float(spearmanr(a, b).statistic),
        "interval": [float(x) for x in np.nanquantile(drawn, [0.025, 0.975])],
        "largest_difference": float(np.abs(a - b).max()),
        "mean_difference": float(np.mean(a - b)),
    }


def summary(ours: Timed[T], plain: Timed[T], seed: int) -> dict[str, Any]:
    count = len(ours.found)
    losses = plain.values("cross_entropy")[:count]
    figures: dict[str, Any] = {
        "seconds": float(np.mean(ours.seconds)),
        "per_minute": 60 / float(np.mean(ours.seconds)),
        "ratio": float(np.sum(plain.seconds[:count]) / np.sum(ours.seconds)),
        "plans": count,
        "best_is_best": bool(losses[ours.values("cross_entropy").argmin()] == losses.min()),
    }
    for name in ("cross_entropy", "top1"):
        figures[name] = agreement(ours, plain, name, seed)
    if any("examples" in one for one in ours.found):
        figures["late_ratio"] = float(
            np.sum(plain.seconds[count // 2 : count]) / np.sum(ours.seconds[count // 2 :])
        )
        figures["examples"] = float(np.mean([one.get("examples", HOLDOUT) for one in ours.found]))
    return figures


def racer(evaluator: Evaluator) -> Score:
    """Against the best score so far, as random search has it."""
    best: list[float] = []

    def score(kept: Kept) -> Found:
        found = evaluator.evaluate(kept, floor=max(best, default=None))
        if found.score is not None:
            best.append(found.score)
        return found.metrics

    return score


def compared(
    setting: Setting, variants: Mapping[str, Timed[Kept]], count: int, seed: int
) -> dict[str, Any]:
    """Every variant on every plan, in turn; one of them is `"plain"`."""
    for number, kept in enumerate(setting.plans(count)):
        for variant in variants.values():
            variant(kept)
        print(number, {name: round(v.seconds[-1], 2) for name, v in variants.items()}, flush=True)
    figures: dict[str, Any] = {
        name: summary(v, variants["plain"], seed) for name, v in variants.items()
    }
    figures["scores"] = {name: v.values("cross_entropy").tolist() for name, v in variants.items()}
    return figures


def ingredients(setting: Setting, count: int, seed: int) -> dict[str, Any]:
    """One ingredient more at a time, without a race."""
    folding, layerwise = setting.evaluator(), setting.evaluator()
    fewer = setting.evaluator(racing=True)
    few = setting.evaluator(racing=True, holdout=FEW)  # the first of the same examples
    plain = Plain(setting.network, folding)

    def sliced(kept: Kept) -> Found:
        network = apply(setting.network, setting.space, kept)
        plain.recalibrate(network)
        return folding.measure(network, "holdout")

    variants = {
        "plain": Timed(plain),
        "folded": Timed(sliced),
        "layerwise": Timed(lambda kept: layerwise.evaluate(kept).metrics),
        "fewer": Timed(lambda kept: fewer.evaluate(kept).metrics),
        "few": Timed(lambda kept: few.evaluate(kept).metrics),
    }
    return compared(setting, variants, count, seed)


def race(setting: Setting, count: int, seed: int) -> dict[str, Any]:
    """All ingredients, racing included, on more plans: the first ones are seldom given up."""
    evaluator = setting.evaluator(racing=True)
    plain = Plain(setting.network, evaluator)
    return compared(
        setting, {"plain": Timed(plain), "racing": Timed(racer(evaluator))}, count, seed
    )


def siblings(setting: Setting, cuts: Sequence[Kept]) -> dict[str, Any]:
    """With and without the cache of prefixes, everything else alike, beside the plain evaluator."""
    sharing, alone = setting.evaluator(), setting.evaluator()
    alone._scorer.cache = Cache(0)
    variants = {
        "plain": Timed(Plain(setting.network, alone)),
        "alone": Timed(lambda kept: alone.evaluate(kept).metrics),
        "sharing": Timed(lambda kept: sharing.evaluate(kept).metrics),
    }
    for number, kept in enumerate(cuts):
        for variant in variants.values():
            variant(kept)
        print(number, {name: round(v.seconds[-1], 2) for name, v in variants.items()}, flush=True)
    if variants["alone"].found != variants["sharing"].found:
        raise SystemExit("scores with the cache differ from those without")
    total = {name: sum(v.seconds) for name, v in variants.items()}
    return {
        "cuts": len(cuts),
        "seconds": {name: value / len(cuts) for name, value in total.items()},
        "sharing_over_alone": total["alone"] / total["sharing"],
        "sharing_over_plain": total["plain"] / total["sharing"],
    }


def precision(setting: Setting, count: int, examples: int, seed: int) -> dict[str, Any]:
    """bfloat16 against float32 on the first examples of the hold-out."""
    evaluator = setting.evaluator(racing=True)
    feed, indices = evaluator.examples("holdout")
    inputs, labels = feed.inputs(indices[:examples]), feed.labels(indices[:examples])

    def scored(dtype: torch.dtype | None) -> Callable[[fx.GraphModule], Found]:
        def score(network: fx.GraphModule) -> Found:
            with torch.inference_mode():
                run = Inference(network, dtype)
                logits: Tensor = torch.cat([run(part) for part in torch.split(inputs, 32)]).float()
            right = (logits.argmax(1) == labels).float().mean()
            return {
                "cross_entropy": float(functional.cross_entropy(logits, labels)),
                "top1": float(right),
            }

        return score

    exact, half = Timed(scored(None)), Timed(scored(torch.bfloat16))
    for number, kept in enumerate(setting.plans(count)):
        network = apply(setting.network, setting.space, kept)
        evaluator.recalibrate(network, kept)
        for variant in (exact, half):
            variant(network)
        print(number, round(exact.seconds[-1], 2), round(half.seconds[-1], 2), flush=True)
    return {"examples": examples, **summary(half, exact, seed)}


def cutting(setting: Setting, count: int) -> dict[str, float]:
    """Seconds of a cut, and of a deep copy before it."""
    seconds: dict[str, list[float]] = {"cut": [], "copy_and_cut": []}
    for kept in setting.plans(count):
        for name, times in seconds.items():
            started = time.process_time()
            copied = copy.deepcopy(setting.network) if name == "copy_and_cut" else setting.network
            apply(copied, setting.space, kept)
            times.append(time.process_time() - started)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=50, help="of the race")
    parser.add_argument("--steps", type=int, default=20, help="plans for each of the ingredients")
    parser.add_argument("--examples", type=int, default=128, help="on which bfloat16 is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="*", choices=PARTS, help="only these; others stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "evaluator.json"
    figures: dict[str, Any] = {"plans": options.plans, "seed": options.seed}
    if path.exists():
        figures |= {name: json.loads(path.read_text()).get(name) for name in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        setting, seed = Setting(Path(folder), options.seed), options.seed
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "cutting": lambda: cutting(setting, min(10, options.plans)),
            "ingredients": lambda: ingredients(setting, options.steps, seed),
            "race": lambda: race(setting, options.plans, seed),
            "sweep": lambda: siblings(setting, setting.sweep((0.75, 0.5, 0.25), 4)),
            "round": lambda: siblings(setting, setting.round(2)),
            "bfloat16": lambda: precision(setting, options.steps, options.examples, seed),
        }
        for name in options.parts or PARTS:
            figures[name] = described("benchmarks.evaluator", parts[name]())
            print(f"{name} written to {save('evaluator', 'benchmarks.evaluator', figures)}")


if __name__ == "__main__":
    main()
