"""Seconds of chains of layers on a target, measured in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from espalier.format.errors import EspalierError
from espalier.runtimes import RUNTIMES, RuntimeMissing
from espalier.targets import Target
from espalier.timing import interleaved
from search.cost.chain_files import input_of, write_chain
from search.cost.chains import Chain

_TOGETHER = 48
"""Chains that take turns, those of one group among each other; each takes some megabytes."""


_ROUNDS = 13
_AGAIN = 12  # chains that tell how fast the clock is today


def can_measure(target: Target) -> bool:
    """Whether the target's runtime reads files of chains."""
    return RUNTIMES[target.runtime].suffix == ".onnx"


def completed(
    chains: Mapping[str, Chain], target: Target, known: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of all the chains: known ones as they are, the others measured beside some of these.

    Clocks differ from day to day. So of chains that are known a few are timed again, and what is
    new is scaled as these tell.

    Raises:
        RuntimeMissing: something is to be measured, and the target's runtime is not here.
        ChainRefused: the runtime does not take one of them.
    """
    found = {name: known[name] for name in chains if name in known}
    again = list(found)[:: max(1, -(-len(found) // _AGAIN))]
    missing = {name: chain for name, chain in chains.items() if name not in known or name in again}
    if len(found) == len(chains):
        return found
    new = measure(missing, target)
    scale = median(known[name] / new[name] for name in again) if again else 1.0
    return {name: found.get(name, scale * new.get(name, 0.0)) for name in chains}


class ChainRefused(EspalierError):
    """Layers of a network that the target's runtime does not take one by one."""

    code = "runtime.chain"


def measure(chains: Mapping[str, Chain], target: Target) -> dict[str, float]:
    """Seconds of one pass over the target's batch, by chain.

    Raises:
        RuntimeMissing: the target's runtime or device is not here.
        ChainRefused: the runtime does not take one of them.
    """
    runtime, names = RUNTIMES[target.runtime], list(chains)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        for start in range(0, len(names), _TOGETHER):
            together = names[start : start + _TOGETHER]
            try:
                runnables = [
                    runtime.prepare(
                        write_chain(chains[name], path),
                        input_of(chains[name], target.batch),
                        threads=target.threads,
                        kind=target.device.kind,
                    )
                    for name in together
                ]
                seconds = interleaved(runnables, rounds=_ROUNDS)
            except RuntimeMissing:
                raise
            except Exception as error:  # runtimes raise what they like
                raise ChainRefused(f"{target.runtime} does not run {together}: {error}") from error
            found |= zip(together, seconds, strict=True)
    return found
