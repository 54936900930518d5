"""Random streams that follow from a seed and a position, so that any step can be repeated alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*parts: int) -> int:
    """A seed below 2**63 from whole numbers, far from that of any other parts.

    Zeros at the end do not count, as `numpy.random.SeedSequence` has it.
    """
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(*parts))


@contextmanager
def dropout_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what draws from torch's own streams (dropout) here, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.random.manual_seed(seed)
        yield
