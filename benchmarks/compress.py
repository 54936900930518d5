"""CIFAR-10 networks compressed through a running service, beside the uniform control.

    python -m benchmarks.compress --network cifar10_resnet20a_holdout --strategy netadapt

Uploads network and data over REST, submits the job, waits, downloads, and writes
`benchmarks/results/NETWORK-STRATEGY.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import espalier
from benchmarks import cifar
from benchmarks.record import save
from benchmarks.service import running

STRATEGIES = ("uniform", "random", "netadapt", "allocate")


def specification(options: argparse.Namespace) -> dict[str, Any]:
    strategy: dict[str, Any] = {"name": options.strategy}
    if options.strategy == "netadapt":
        strategy |= {"first_step": options.first_step, "tuning_steps": options.tuning_steps}
    return {
        "name": f"{options.network}, {options.strategy}",
        "budget": {"macs": options.budget},
        "strategy": strategy,
        "evaluation": {
            "calibration": options.calibration,
            "holdout": options.holdout,
            "metric": "cross_entropy",
            "batch_size": options.batch_size,
        },
        "finetune": {
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "weight_decay": options.weight_decay,
            "distillation": options.distillation,
            "temperature": options.temperature,
            "augment": "crop_flip",
            "keep": options.keep,
        },
        "rounding": {"multiple": 1},
        "seed": options.seed,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One job through a service of its own; returns what is recorded."""
    root = Path("var/benchmarks") / f"{options.network}-{options.strategy}-{options.seed}"
    root.mkdir(parents=True, exist_ok=True)
    arrays = cifar.dataset(options.network, options.examples, options.seed)
    np.savez(root / "data.npz", allow_pickle=False, **arrays)
    package = espalier.pack(
        cifar.trained(options.network),
        cifar.EXAMPLE,
        root / "network.espalier",
        name=options.network,
        preprocessing=cifar.PREPROCESSING,
    )
    started = time.monotonic()
    with (
        running(root / "service", workers=options.workers) as service,
        espalier.Client(service.url) as client,
    ):
        spec = specification(options) | {
            "network": client.upload_network(package)["id"],
            "dataset": client.upload_dataset(root / "data.npz")["id"],
        }
        job = client.submit(spec)["id"]
        view: dict[str, Any] = {}
        for view in client.watch(job):
            stage = f"{view.get('stage')} {view.get('progress') or 0:.0%}"
            print(f"{time.monotonic() - started:7.0f} s  {view['state']} {stage}", flush=True)
        if view["state"] != "succeeded":
            raise SystemExit(f"the job {view['state']}: {view.get('error')}")
        client.download(job, root / "results")
    summary = json.loads((root / "results" / "metrics.json").read_text())
    return {
        "job": spec,
        "workers": options.workers,
        "wall_s": time.monotonic() - started,
        **summary,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=cifar.NETWORKS, required=True)
    parser.add_argument("--strategy", choices=STRATEGIES, required=True)
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--holdout", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--first-step", type=float, default=0.03)
    parser.add_argument("--tuning-steps", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--distillation", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--keep", choices=("best", "last"), default="best")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = run(options)
    path = save(f"{options.network}-{options.strategy}", "benchmarks.compress", figures)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
