"""The runtimes in which networks are timed, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from espalier.runtimes.base import Clock, Runnable, Runtime, RuntimeMissing
from espalier.runtimes.onnxruntime import OnnxRuntime
from espalier.runtimes.openvino import OpenVino
from espalier.runtimes.torch import Torch
from espalier.targets import RuntimeName

RUNTIMES: Mapping[RuntimeName, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), Torch())
}
"""By name; further ones are one more file."""

__all__ = ["RUNTIMES", "Clock", "Runnable", "Runtime", "RuntimeMissing"]
