"""Searches that know nothing at first, at the budgets of `allocate`'s curve.

    python -m benchmarks.learners --network cifar10_resnet20a_holdout --seed 0

130 trials of random plans, AMC, TPE and CMA-ES for each budget, channels by L1, solved in parallel,
no gradient step. The test split is measured once for each winner.

Every finished search is a line in `benchmarks/results/learners/NETWORK-SEED.jsonl`; what is there
is not run again, so that budgets may come one after the other. One thread; a search takes about two
minutes on a ResNet-20.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.allocate import SHARES, Bench
from benchmarks.record import RESULTS, described
from benchmarks.subjects import SUBJECTS
from search.strategy_specs import AmcSpec, OptunaSpec, RandomSpec, StrategySpec

FOLDER = RESULTS / "learners"
_TRIALS = 130  # as in `benchmarks.methods`
SEARCHES: dict[str, StrategySpec] = {
    "random, L1, parallel": RandomSpec(trials=_TRIALS),
    "amc, L1, parallel": AmcSpec(trials=_TRIALS),
    "tpe, L1, parallel": OptunaSpec(trials=_TRIALS),
    "cmaes, L1, parallel": OptunaSpec(sampler="cmaes", trials=_TRIALS),
}


def recorded(network: str, seed: int) -> list[dict[str, Any]]:
    """The finished searches of a network and a seed."""
    path = _path(network, seed)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _path(network: str, seed: int) -> Path:
    return FOLDER / f"{network}-{seed}.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=SUBJECTS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=SHARES)
    parser.add_argument("--calibration", type=int, default=1024)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    there = {(run["name"], run["share"]) for run in recorded(options.network, options.seed)}
    bench = Bench(SUBJECTS[options.network], options.seed, options.calibration)
    path = _path(options.network, options.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    for share in options.shares:
        for name, spec in SEARCHES.items():
            if (name, share) in there:
                continue
            strategy, trials = bench.play(spec, share, evaluator=bench.by_norm)
            kept = trials[strategy.best][1].kept
            found = bench.figures(kept, bench.by_norm.network(kept))
            line = described("benchmarks.learners", {"name": name, "share": share, **found})
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(name, share, f"{found['macs']:.4f}", round(found["test"]["top1"], 4), flush=True)


if __name__ == "__main__":
    main()
