"""Convolutions and their gradients against float64: through our forms, and as torch has them.

    python -m benchmarks.soundness

Runs the whole sweep of `search.evaluation.soundness` in both layouts on one and two threads, as the
processor is and as one without AVX-512; then plain torch beside it, which shows what upstream still
gets wrong. Of plain torch no more than `--most` findings are taken for a layout and number of
threads: each may end a process. Then the cost: steps of training of a residual and of a depthwise
network in our form, as torch has it with channels last, and in our form with torch's ordinary
layout; thread CPU time, in turn, the median of the ratios. Writes
`benchmarks/results/soundness.json`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import CifarResNet, MobileNetV2
from benchmarks.plain_convolutions import plain
from benchmarks.record import save
from espalier.format.build import load
from espalier.format.lift import pack
from search.evaluation.convolution_cases import LAYOUTS, cases
from search.evaluation.soundness import findings, in_use
from search.pruning import clone

PROCESSORS: Mapping[str, dict[str, str]] = {
    "as it is": {},
    "without AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
FORMS = {"ours": "search.evaluation.soundness", "plain torch": "benchmarks.plain_convolutions"}
ROUNDS = 15

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20, shortcuts of kernel 1": (lambda: CifarResNet(20, "b"), (32, 3, 32, 32)),
    "MobileNet-V2": (lambda: MobileNetV2(divisor=2), (8, 3, 96, 96)),
}


def sweeps(most: int) -> list[dict[str, Any]]:
    """What was found, by processor, forms, layout and threads."""
    found = []
    for (processor, environment), (forms, module), layout, threads in itertools.product(
        PROCESSORS.items(), FORMS.items(), LAYOUTS, (1, 2)
    ):
        began = time.monotonic()
        wrong = findings(layout, threads, module=module, environment=environment)
        taken = list(itertools.islice(wrong, most))
        wrong.close()
        entry = {
            "processor": processor,
            "forms": forms,
            "layout": layout,
            "threads": threads,
            "cases": len(cases(layout)),
            "wrong": len(taken),
            "stopped": len(taken) == most,
            "seconds": round(time.monotonic() - began, 1),
            "findings": [str(finding) for finding in taken],
        }
        found.append(entry)
        print({key: value for key, value in entry.items() if key != "findings"}, flush=True)
    return found


def costs() -> dict[str, dict[str, float]]:
    """Medians of thread CPU time of a step of training, relative to our form's."""
    return {name: _cost(make(), shape) for name, (make, shape) in NETWORKS.items()}


def _cost(network: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(network.eval(), torch.zeros(1, *shape[1:]), Path(folder) / "network.espalier")
        loaded = load(packed).train()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": in_use(clone(loaded), True),
        "plain torch, channels last": plain(clone(loaded), True),
        "ours, ordinary layout": in_use(clone(loaded), False),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(ROUNDS + 2):
        for name, run in ways.items():
            began = time.thread_time()
            torch.autograd.backward(run(x).square().mean())
            if at >= 2:
                taken[name].append(time.thread_time() - began)
    return {
        name: statistics.median(a / b for a, b in zip(seconds, taken["ours"], strict=True))
        for name, seconds in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=5, help="findings that are taken at once")
    most = parser.parse_args().most
    torch.set_num_threads(1)
    figures = {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "costs": costs(),
        "sweeps": sweeps(most),
    }
    print(save("soundness", "benchmarks.soundness", figures))


if __name__ == "__main__":
    main()
