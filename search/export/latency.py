"""Time of one example, two networks measured side by side."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

RUNS = 60
_WARM_UP = 10


def _seconds(network: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start


def latencies(first: nn.Module, second: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """Median time in seconds of both networks on the same inputs.

    Their runs alternate, so that whatever else the machine does slows both.
    """
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for run in range(_WARM_UP + RUNS):
            for network, found in zip((first, second), times, strict=True):
                value = _seconds(network, inputs)
                if run >= _WARM_UP:
                    found.append(value)
    return statistics.median(times[0]), statistics.median(times[1])
