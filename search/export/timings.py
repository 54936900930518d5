"""Time the exported network beside the original, in the runtime that the job names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espalier.runtimes import RUNTIMES
from espalier.runtimes.here import target_here
from espalier.timing import CONFIDENCE, paired
from search.export.page import Markup, table, tag
from search.export.words import seconds_text, share_text
from search.records import JobWarning
from search.space import Plan
from search.spec import TargetSpec

BATCHES = (1, 32)
"""Timed beside the target's own: one example alone, and a batch that fills the processor."""

_MOST_S = 60.0  # for each batch; networks of which one pass takes seconds need it
_NOTED = 0.05  # smallest saving in MACs that a saving in time is asked of
_ODD = 0.25  # share of groups from which odd widths are the likely cause
_BLOCK = 8  # channels in onnxruntime's blocked layout on AVX2; github.com/microsoft/onnxruntime


def timings(
    files: Mapping[str, tuple[Path, Path]], inputs: NDArray[Any], target: TargetSpec
) -> list[dict[str, Any]]:
    """Time two networks at the target's batch and at `BATCHES`, the target's first.

    Args:
        files: the original and the pruned network for each suffix.
        inputs: `(n, ...)` examples as the networks take them; repeated where a batch needs more.
    Returns:
        For each batch the target and the timing, as JSON values.

    Raises:
        RuntimeMissing: this machine has not the runtime, or not the device.
    """
    here = target_here(target.runtime, threads=target.threads, device=target.device)
    runtime, found = RUNTIMES[here.runtime], []
    for batch in dict.fromkeys((target.batch, *BATCHES)):
        examples = inputs[np.resize(np.arange(len(inputs)), batch)]
        original, pruned = (
            runtime.prepare(file, examples, threads=target.threads, kind=here.device.kind)
            for file in files[runtime.suffix]
        )
        timing = paired(original, pruned, most_s=_MOST_S)
        found.append(replace(here, batch=batch).to_json() | timing.to_json())
    return found


def little_saved(
    timing: Mapping[str, Any], full: Plan, plan: Plan, *, fitted: bool
) -> tuple[JobWarning, ...]:
    """A warning where less than half of the saving in MACs is saved in time.

    Of an unreliable figure the end of its interval counts that speaks against a warning.

    Args:
        timing: one of `timings`, with `macs_ratio`.
        full, plan: widths of the groups in the original and in the pruned network.
        fitted: whether the widths were chosen by what runs fast on the target.
    """
    macs, ratio = timing["macs_ratio"], timing["ratio"]
    least = timing["low"] if timing["unreliable"] else ratio
    if 1 - macs < _NOTED or 1 - least >= (1 - macs) / 2:
        return ()
    odd = sum(
        width % _BLOCK != 0 and whole % _BLOCK == 0 for width, whole in zip(plan, full, strict=True)
    )
    if not fitted and odd >= _ODD * len(plan):
        why = (
            f"{odd} of {len(plan)} groups keep a number of channels that is no multiple of "
            f"{_BLOCK}, with which kernels compute as long as with the next one, or longer"
        )
        way_out = (
            f"set rounding.multiple to auto or {_BLOCK}, if need be with a smaller budget, or name "
            "another target"
        )
    else:
        why = (
            "what was removed was cheap there: in layers that wait for memory, in small ones, "
            "whose calls cost more than their arithmetic, or in a batch too small to fill the "
            "device"
        )
        way_out = "lower the budget, or compare larger batches and other runtimes in metrics.json"
    found = (
        f"{share_text(macs)} of the MACs take {share_text(ratio)} of the original's time "
        f"{place_text(timing)} ({interval_text(timing)}, {CONFIDENCE:.0%} confidence)"
    )
    return (JobWarning("latency.little_saved", f"{found}: {why}; {way_out}"),)


def place_text(timing: Mapping[str, Any], *, batch: bool = True) -> str:
    """`in onnxruntime 1.31.1, 1 thread, batch 1`."""
    threads = timing["threads"]
    text = f"in {timing['runtime']} {timing['version']}, {threads} thread{'s' * (threads != 1)}"
    return f"{text}, batch {timing['batch']}" if batch else text


def interval_text(timing: Mapping[str, Any]) -> str:
    """`84.9 to 87.1 %`."""
    interval = f"{100 * timing['low']:.1f} to {share_text(timing['high'])}"
    return f"{interval}, unreliable" if timing["unreliable"] else interval


def timings_section(found: Sequence[Mapping[str, Any]]) -> Markup:
    """The report's section."""
    target = found[0]
    clock = {
        "thread": "processor time of the thread that computes",
        "process": "processor time of the process",
        "wall": "time on the wall",
        "cuda": "time on the accelerator",
    }[target["clock"]]
    note = (
        f"One pass of the exported file {place_text(target, batch=False)}, {target['precision']}, "
        f"on {target['device']['name']}, beside the original's file: in turns in one process, "
        f"{clock}. The share of the time is the median of paired measurements, its interval has a "
        f"confidence of {CONFIDENCE:.0%}."
    )
    if any(timing["unreliable"] for timing in found):
        note += " Unreliable: the machine was too busy for a narrow interval."
    rows = [
        (
            f"Batch {timing['batch']}",
            seconds_text(timing["before_s"]),
            seconds_text(timing["after_s"]),
            share_text(timing["ratio"]),
            interval_text(timing),
            share_text(timing["macs_ratio"]),
        )
        for timing in found
    ]
    head = ("", "Original", "Pruned", "Share of the time", "Interval", "Share of the MACs")
    return tag("section", tag("h2", "Time"), tag("p", note), table(head, rows))
