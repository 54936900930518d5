"""What a runtime offers: a network made ready to run, and the clock that is honest for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from espalier.format.errors import EspalierError
from espalier.targets import Device, DeviceKind, RuntimeName

Clock = Literal["thread", "process", "wall", "cuda"]
"""Whose time is counted.

- `thread`: the calling thread's on a core; other processes do not count. For runtimes that compute
  in the calling thread.
- `process`: all threads' of this process on a core. For runtimes that compute in one thread of
  their own.
- `wall`: of the clock on the wall, whatever else runs. For several threads.
- `cuda`: between two events on the accelerator.
"""

CLOCKS: Mapping[Clock, Callable[[], float]] = {
    "thread": time.thread_time,
    "process": time.process_time,
    "wall": time.perf_counter,
}


class RuntimeMissing(EspalierError):
    """A runtime that is not installed, or a device that this machine has not."""

    code = "runtime.missing"


@dataclass(frozen=True, slots=True)
class Runnable:
    """A network in a runtime, with its input in place.

    Attributes:
        run: one pass over the batch.
        output: what the last pass gave, `(batch, ...)`.
        clock: in which its passes are timed.
    """

    run: Callable[[], object]
    output: Callable[[], NDArray[np.float32]]
    clock: Clock

    def seconds(self, passes: int) -> float:
        """What so many passes in a row take, by `clock`."""
        now, run = CLOCKS[self.clock], self.run
        start = now()
        for _ in range(passes):
            run()
        return now() - start


class Runtime(Protocol):
    """One way to run a network file.

    Attributes:
        suffix: of the files that it reads.
    """

    @property
    def name(self) -> RuntimeName: ...

    @property
    def suffix(self) -> Literal[".onnx", ".espalier"]: ...

    def version(self) -> str | None:
        """Of what is installed here; `None` if nothing is. Imports nothing heavy."""

    def devices(self) -> tuple[Device, ...]:
        """What it can use of this machine; empty if it is not installed."""

    def prepare(
        self,
        file: Path,
        inputs: NDArray[Any],
        *,
        threads: int = 1,
        kind: DeviceKind = "cpu",
    ) -> Runnable:
        """Load a network.

        Args:
            inputs: `(batch, ...)`, on which it will run; float32, or the integers that it takes.
            threads: that a pass may use.

        Raises:
            RuntimeMissing: it is not installed, or this machine has no such device.
        """


def installed(distribution: str) -> str | None:
    """The version of an installed distribution; `None` if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def need(runtime: Runtime, way_out: str, kind: DeviceKind) -> None:
    """Check that a runtime is installed and can use a device of this kind.

    Raises:
        RuntimeMissing: see `way_out`.
    """
    if runtime.version() is None:
        raise RuntimeMissing(f"{runtime.name} is not installed here: {way_out}")
    if kind not in {device.kind for device in runtime.devices()}:
        raise RuntimeMissing(f"{runtime.name} can use no device of kind {kind} on this machine")
