"""The widths that run fast on a job's target, where `rounding.multiple` is auto."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from espalier.runtimes.here import target_here
from search.context import Problem
from search.cost.chain_times import ChainRefused, can_measure, completed
from search.records import JobWarning, Staircase
from search.space import Choices
from search.spec import JobSpec

_NAMED = 5  # groups that a message names


def fast_widths(
    problem: Problem, spec: JobSpec, known: Mapping[str, float]
) -> tuple[Choices, Staircase]:
    """The widths that each group may keep, and what they follow from.

    Args:
        known: seconds on the target by chain of layers; the others are measured.

    Raises:
        RuntimeMissing: this machine does not offer the job's target.
    """
    asked = spec.target
    target = target_here(
        asked.runtime, threads=asked.threads, batch=asked.batch, device=asked.device
    )
    probe = problem.probe
    seconds, measured = None, 0
    if can_measure(target):
        with suppress(ChainRefused):  # a job does not end for what would only make it faster
            seconds = completed(probe.chains, target, known)
            measured = len(seconds.keys() - known.keys())
    found = probe.decide(seconds, problem.cost, problem.budget(spec), spec.rounding.minimum)
    return found.choices, Staircase(
        target, seconds or {}, measured, found.stairs, found.finer, found.needed
    )


def check_widths(staircase: Staircase) -> list[JobWarning]:
    """What a user should know of them before the search."""
    target = f"{staircase.target.runtime} on {staircase.target.device.name}"
    warnings = []
    if not staircase.seconds:
        warnings.append(
            JobWarning(
                "widths.unmeasured",
                f"layers cannot be timed one by one in {staircase.target.runtime}, so widths are "
                "multiples of 8 channels: set rounding.multiple to another number, or name another "
                "target",
            )
        )
    if staircase.needed:
        names = ", ".join(staircase.needed[:_NAMED])
        more = len(staircase.needed) - _NAMED
        names += f" and {more} more" if more > 0 else ""
        warnings.append(
            JobWarning(
                "widths.slow",
                f"no plan of widths that run fast in {target} is within the budget, so these "
                f"groups may keep others too, which take as long as wider ones: {names}. Raise the "
                "limit, or expect less of the time to go than of the costs",
            )
        )
    return warnings
