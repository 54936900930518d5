"""Whether repeated measurements of one pair of networks agree on a busy machine.

    python -m benchmarks.timing

ResNet-20 (option A) beside its uniform plans at half the MACs, channels by ones and by multiples of
8, random weights: times do not depend on them. Each pair is prepared anew and measured `REPEATS`
times by `espalier.timing.paired`, while two other processes multiply matrices on both cores. Beside
it what one would do by hand: `RUNS` passes of each in turns, the ratio of the medians of wall time.
Writes `benchmarks/results/timing.json`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import espalier
from benchmarks.networks import CifarResNet
from benchmarks.record import save
from espalier.format.build import build, load
from espalier.format.lift import lift
from espalier.runtimes import RUNTIMES, Runnable
from espalier.targets import RuntimeName
from espalier.timing import paired
from search.cost import Budget, CostModel, choices_of
from search.export.onnx import export_onnx
from search.graph import space_of
from search.pruning import apply
from search.spec import BudgetSpec, RoundingSpec
from search.strategies.fitting import uniform_plan
from search.versions import NEWEST

REPEATS = 6
RUNS = 60
MULTIPLES = (1, 8)
PLACES: tuple[tuple[RuntimeName, int], ...] = (
    ("onnxruntime", 1), ("onnxruntime", 32), ("openvino", 1), ("openvino", 32), ("torch", 1),
)  # fmt: skip
_BUSY = """
import numpy
a = numpy.ones((700, 700), "float32")
while True:
    a @ a
    numpy.sort(a.ravel()[::-1])
"""


def files(folder: Path) -> dict[str, dict[str, Path]]:
    """The original and its plans, each as package and as ONNX: `[name][suffix]`."""
    torch.manual_seed(0)
    example = torch.randn(8, 3, 32, 32)
    graph, tensors = lift(CifarResNet(20, "a").eval(), example[:2])
    network, space = build(graph, tensors), space_of(graph)
    cost = CostModel(space)
    budget = Budget.resolve(BudgetSpec(macs="50%"), cost.full)
    plans = {"original": space.full} | {
        str(multiple): uniform_plan(
            cost, budget, choices_of(space, RoundingSpec(multiple=multiple), NEWEST)
        )
        for multiple in MULTIPLES
    }
    found: dict[str, dict[str, Path]] = {}
    for name, plan in plans.items():
        pruned = apply(network, space, tuple(tuple(range(width)) for width in plan))
        package = espalier.pack(pruned, example[:2], folder / f"{name}.espalier")
        onnx = folder / f"{name}.onnx"
        export_onnx(load(package), example, onnx, {})
        found[name] = {".espalier": package, ".onnx": onnx}
        print(f"{name}: {cost.of(plan)['macs'] / cost.full['macs']:.3f} of the MACs", flush=True)
    return found


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that compute and fill the caches."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def by_hand(pair: Sequence[Runnable]) -> float:
    """The ratio of the medians of `RUNS` passes of each, in turns, on the wall."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for runnable, seconds in zip(pair, taken, strict=True):
            started = time.perf_counter()
            runnable.run()
            seconds.append(time.perf_counter() - started)
    return median(taken[1]) / median(taken[0])


def apart(ratios: Sequence[float]) -> float:
    """How far the largest is above the smallest, relatively."""
    return max(ratios) / min(ratios) - 1


def measured(
    made: dict[str, dict[str, Path]], name: str, place: tuple[RuntimeName, int], repeats: int
) -> dict[str, Any]:
    """One pair in one runtime at one batch."""
    runtime, batch = RUNTIMES[place[0]], place[1]
    inputs: NDArray[np.float32] = np.zeros((batch, 3, 32, 32), np.float32)
    timings, others, began = [], [], time.monotonic()
    for _ in range(repeats):
        pair = [runtime.prepare(made[each][runtime.suffix], inputs) for each in ("original", name)]
        timings.append(paired(*pair))
        others.append(by_hand(pair))
    ratios = [timing.ratio for timing in timings]
    return {
        "runtime": runtime.name,
        "version": runtime.version(),
        "batch": batch,
        "multiple": int(name),
        "clock": timings[0].clock,
        "ratios": ratios,
        "apart": apart(ratios),
        "widest_interval": max((t.high - t.low) / t.ratio for t in timings),
        "unreliable": sum(timing.unreliable for timing in timings),
        "by_hand": others,
        "by_hand_apart": apart(others),
        "before_s": median(timing.before_s for timing in timings),
        "seconds": (time.monotonic() - began) / repeats,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = files(Path(folder))
        found = []
        with busy(2):
            for name in map(str, MULTIPLES):
                for place in PLACES:
                    found.append(measured(made, name, place, REPEATS))
                    print(found[-1], flush=True)
    print(f"written to {save('timing', 'benchmarks.timing', {'busy': 2, 'pairs': found})}")


if __name__ == "__main__":
    main()
