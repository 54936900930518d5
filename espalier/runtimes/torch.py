"""PyTorch, operation by operation, on the processor or on a CUDA accelerator; takes packages."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from espalier.runtimes.base import Clock, Runnable, installed, need
from espalier.targets import Device, DeviceKind, fingerprint, processor


@dataclass(frozen=True, slots=True)
class _OnCuda(Runnable):
    """Timed between two events on the accelerator, which works on while Python goes ahead."""

    clock: Clock = "cuda"

    def seconds(self, passes: int) -> float:
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(passes):
            self.run()
        end.record()
        end.synchronize()
        taken_ms: float = start.elapsed_time(end)
        return taken_ms / 1000


@cache
def _accelerator() -> Device | None:
    """The first CUDA accelerator, which is the one that is used."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    facts = {
        "name": found.name,
        "capability": [found.major, found.minor],
        "processors": found.multi_processor_count,
        "memory": found.total_memory,
    }
    return Device(platform.node(), "cuda", found.name, fingerprint(facts))


class Torch:
    name: Literal["torch"] = "torch"
    suffix: Literal[".espalier"] = ".espalier"

    def version(self) -> str | None:
        return installed("torch")

    def devices(self) -> tuple[Device, ...]:
        """Imports torch, which alone knows whether it can use an accelerator."""
        if self.version() is None:
            return ()
        accelerator = _accelerator()
        return (processor(),) if accelerator is None else (processor(), accelerator)

    def prepare(
        self,
        file: Path,
        inputs: NDArray[Any],
        *,
        threads: int = 1,
        kind: DeviceKind = "cpu",
    ) -> Runnable:
        """Load a package; on the processor, sets the threads of torch in the whole process."""
        need(self, "pip install torch", kind)
        import torch

        from espalier.format.build import load

        network = load(file).eval().to(kind)
        given = torch.from_numpy(np.ascontiguousarray(inputs)).to(kind)
        last: list[torch.Tensor] = []

        def run() -> None:
            with torch.inference_mode():
                last[:] = [network(given)]

        def output() -> NDArray[np.float32]:
            found: NDArray[np.float32] = last[0].cpu().numpy()
            return found

        if kind == "cuda":
            return _OnCuda(run, output)
        torch.set_num_threads(threads)
        return Runnable(run, output, "thread" if threads == 1 else "wall")
