"""A target of this machine, from what is asked for."""

from __future__ import annotations

from espalier.runtimes import RUNTIMES
from espalier.runtimes.base import RuntimeMissing
from espalier.targets import RuntimeName, Target


def target_here(
    name: RuntimeName = "onnxruntime",
    *,
    threads: int = 1,
    batch: int = 1,
    device: str | None = None,
) -> Target:
    """The target that this machine offers.

    Args:
        device: id; the runtime's first device, which is the processor, if not given.

    Raises:
        RuntimeMissing: this machine has not the runtime, or not the device.
    """
    runtime = RUNTIMES[name]
    version = runtime.version()
    found = next((each for each in runtime.devices() if device in (None, each.id)), None)
    if version is None or found is None:
        where = "" if device is None else f", or not the device {device}"
        raise RuntimeMissing(f"this machine has not the runtime {name}{where}")
    return Target(name, version, found, threads=threads, batch=batch)
