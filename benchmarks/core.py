"""The search's inner steps on ResNet-56 (option A), one thread: cutting, and costing plans.

    python -m benchmarks.core

Random weights: the times do not depend on them. Writes `benchmarks/results/core.json`.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.networks import CifarResNet
from benchmarks.record import save
from espalier.format.build import build
from espalier.format.lift import lift
from search.cost import CostModel
from search.graph import space_of
from search.pruning import apply

RUNS = 200
PLANS = 100_000


def median_s(run: Callable[[], object], runs: int) -> float:
    """Median duration of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    graph, tensors = lift(CifarResNet(56, "a").eval(), torch.zeros(2, 3, 32, 32))
    network, space = build(graph, tensors), space_of(graph)
    full = [tuple(range(group.channels)) for group in space.groups]
    block = next(i for i, group in enumerate(space.groups) if group.name == "layer1.2.conv1")
    kept = tuple(channels[:10] if i == block else channels for i, channels in enumerate(full))
    cost = CostModel(space)
    rng = np.random.default_rng(0)
    plans = np.stack([rng.integers(1, group.channels + 1, PLANS) for group in space.groups], axis=1)
    some = [tuple(int(width) for width in plan) for plan in plans[:1000]]

    cut_s = median_s(lambda: apply(network, space, kept), RUNS)
    copy_s = median_s(lambda: copy.deepcopy(network), 20)
    many_s = median_s(lambda: cost.many(plans), 5) / PLANS
    one_s = median_s(lambda: [cost.of(plan) for plan in some], 5) / len(some)
    figures = {
        "seed": 0,
        "apply_one_group_s": cut_s,
        "deepcopy_s": copy_s,
        "deepcopy_over_apply": copy_s / cut_s,
        "plans_per_s": 1 / many_s,
        "plans_per_s_one_by_one": 1 / one_s,
        "many_over_one_by_one": one_s / many_s,
    }
    print(f"written to {save('core', 'benchmarks.core', figures)}")


if __name__ == "__main__":
    main()
