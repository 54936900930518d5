"""The runtimes in which networks are timed, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from espalier.runtimes.base import Clock, Runnable, Runtime, RuntimeMissing
from espalier.runtimes.onnxruntime import OnnxRuntime
from espalier.targets import RuntimeName

RUNTIMES: Mapping[RuntimeName, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(),)}

__all__ = ["RUNTIMES", "Clock", "Runnable", "Runtime", "RuntimeMissing"]
