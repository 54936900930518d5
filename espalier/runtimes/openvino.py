"""OpenVINO on the processor (`pip install espalier[openvino]`).

One stream, so that the threads work on one pass, with the batch of the inputs fixed, which is how
OpenVINO wants to be told of it. Calculates in float32: by itself it takes bfloat16 where the
processor has instructions for it. Its threads are not pinned to cores, where they would wait for
whatever else runs there (docs.openvino.ai, "Performance Hints and Thread Scheduling").
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from espalier.runtimes.base import Runnable, installed, need
from espalier.targets import Device, DeviceKind, processor

_TELEMETRY = "openvino_telemetry"


def _imported() -> ModuleType:
    """The package, without telemetry.

    Importing it sends its makers an event over the network and leaves an id in the home folder;
    without the package that does so, it goes without.
    """
    there = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # its import fails, says Python
    try:
        import openvino
    finally:
        del sys.modules[_TELEMETRY]
        if there is not None:
            sys.modules[_TELEMETRY] = there
    module: ModuleType = openvino
    return module


class OpenVino:
    name: Literal["openvino"] = "openvino"
    suffix: Literal[".onnx"] = ".onnx"

    def version(self) -> str | None:
        return installed("openvino")

    def devices(self) -> tuple[Device, ...]:
        return (processor(),) if self.version() is not None else ()

    def prepare(
        self,
        file: Path,
        inputs: NDArray[Any],
        *,
        threads: int = 1,
        kind: DeviceKind = "cpu",
    ) -> Runnable:
        need(self, "pip install espalier[openvino]", kind)
        openvino = _imported()
        model = openvino.Core().read_model(file)
        model.reshape(list(inputs.shape))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(inputs)))

        def output() -> NDArray[np.float32]:
            found: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
            return found

        return Runnable(request.infer, output, "process" if threads == 1 else "wall")
