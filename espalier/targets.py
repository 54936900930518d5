"""What a network runs on: a runtime, its settings, and the device.

Imports no runtime: `search` and `api` read specifications with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter

RuntimeName = Literal["onnxruntime", "openvino", "torch"]
DeviceKind = Literal["cpu", "cuda"]

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTION_SETS = re.compile(
    r"sse|ssse|avx|fma|f16c|amx|vnni|gfni|asimd|neon|sve|sme|bf16|i8mm|fphp"
)
_MODEL = ("vendor_id", "model name", "cpu family", "model", "CPU implementer", "CPU part")
"""Fields that tell models apart; a hypervisor often hides the name."""


class _Json:
    """An exact form in JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # of dataclasses only

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_json` gave.

        Raises:
            pydantic.ValidationError: the values are none.
        """
        return TypeAdapter(cls).validate_python(values)


@dataclass(frozen=True, slots=True)
class Device(_Json):
    """A processor or an accelerator of one host.

    Attributes:
        host: name of the machine.
        name: model of the processor or accelerator, as it calls itself.
        fingerprint: equal for devices that are equally fast: a hash of the model, the instruction
            sets and the number of cores, not of the host.
    """

    host: str
    kind: DeviceKind
    name: str
    fingerprint: str

    @property
    def id(self) -> str:
        """Of this device of this host, for `target.device` of a job."""
        return f"dev_{fingerprint(self.to_json())}"


@dataclass(frozen=True, slots=True)
class Target(_Json):
    """What a network shall be fast on; a network's time is a property of both.

    Attributes:
        version: of the runtime.
        threads: that one pass may use.
        batch: examples in one pass.
    """

    runtime: RuntimeName
    version: str
    device: Device
    precision: Literal["float32"] = "float32"
    threads: int = 1
    batch: int = 1

    @property
    def key(self) -> str:
        """What decides times: equal for targets on two hosts of the same model."""
        return "/".join(
            (
                f"{self.runtime}-{self.version}",
                self.precision,
                f"threads-{self.threads}",
                f"batch-{self.batch}",
                self.device.fingerprint,
            )
        )


def fingerprint(facts: Mapping[str, object]) -> str:
    """A short hash of JSON values, whatever their order."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cpuinfo() -> dict[str, str]:
    """The fields of the first core; empty where the system has no such file."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


@cache
def processor() -> Device:
    """The processor of this machine."""
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    sets = sorted(flag for flag in flags if _INSTRUCTION_SETS.search(flag))
    name = info.get("model name") or platform.processor() or platform.machine()
    facts = {
        "machine": platform.machine(),
        "name": name,
        "model": [info.get(field) for field in _MODEL],
        "instruction_sets": sets,
        "cores": os.cpu_count(),
    }
    return Device(platform.node(), "cpu", name, fingerprint(facts))
