"""What the examination of one file may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["network", "dataset"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CPU_S = 10.0
"""DenseNet-264, ResNet-1202 and EfficientNet-B7 take 1 s; the most that the limits of the analysis
let through takes 4 s."""

MEMORY_BYTES = 2 * 2**30
VERDICT_BYTES = 32 * 2**20
"""The longest verdict: names of classes take 1 MiB, groups and reasons of a large network less."""

_BYTES_A_SECOND = {"network": 20e6, "dataset": 2e6}
"""How slowly a file may be read; measured rates are 20 times as high, also of small images."""

_WALL = 10.0  # elapsed to processor time, on a machine that is busy with other work


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one examination.

    Attributes:
        cpu_s: processor time, the start of the process included.
        memory_bytes: address space.
        wall_s: elapsed time.
    """

    cpu_s: float
    memory_bytes: int
    wall_s: float

    @classmethod
    def of(
        cls, kind: Kind, size_bytes: int, cpu_s: float = CPU_S, memory_bytes: int = MEMORY_BYTES
    ) -> Bounds:
        """The bounds for a file of that size.

        Args:
            cpu_s: beside what it takes to read the file's bytes.
        """
        cpu_s += size_bytes / _BYTES_A_SECOND[kind]
        return cls(cpu_s, memory_bytes, 30 + _WALL * cpu_s)
