"""onnxruntime on the processor.

With one thread it computes in the calling thread. Its other threads wait for work by spinning,
which takes time from whatever shares the machine, so that is switched off
(onnxruntime.ai/docs/performance/tune-performance/threading.html). The input stays bound: what
Python's `run` adds, 1.5 of 3.2 us for a network of one small layer, is not the network's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from espalier.runtimes.base import Runnable, installed, need
from espalier.targets import Device, DeviceKind, processor


class OnnxRuntime:
    name: Literal["onnxruntime"] = "onnxruntime"
    suffix: Literal[".onnx"] = ".onnx"

    def version(self) -> str | None:
        return installed("onnxruntime")

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
        need(self, "pip install onnxruntime", kind)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        bound = session.io_binding()
        bound.bind_ortvalue_input(
            source.name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(inputs))
        )
        for output in session.get_outputs():
            bound.bind_output(output.name)
        return Runnable(
            run=lambda: session.run_with_iobinding(bound),
            output=lambda: bound.copy_outputs_to_cpu()[0],
            clock="thread" if threads == 1 else "wall",
        )
