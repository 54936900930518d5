"""A candidate that loses is told by few examples.

The hold-out is gone through in a fixed random order. After two and four ninths and two thirds of
it the score on all of it is estimated. The original network, whose results on all are known, is the
control variate: `estimate = original on all + mean(candidate - original)` over those seen. Where it
is below the score to beat by more than `Z` standard errors, the candidate is given up. The standard
error is that of a sample without replacement: `sd(candidate - original) * sqrt((1 - n / N) / n)`.

Source of the control variate as a difference estimator: Cochran 1977, "Sampling Techniques", 7.2
(regression coefficient 1). The original is of use where it errs as the candidate does: on a
hold-out that it was trained on it hardly errs, and the estimate is the plain mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from search.evaluation.metrics import score_of
from search.spec import Metric

Z = 1.28  # one side of 10 %
SHARES = (2 / 9, 4 / 9, 2 / 3)
LEAST = 64
"""Examples below which nothing is judged."""

Found = dict[str, Tensor]
"""By metric: what each example contributes, `(n,)`, see `metrics.each`."""

_ACCURACIES = ("top1", "top5", "agreement")


def stops(count: int, batch: int) -> list[int]:
    """How many of `count` examples are seen before each judgement: whole batches, ascending."""
    places = {max(1, round(share * count / batch)) * batch for share in SHARES}
    return sorted(place for place in places if LEAST <= place < count)


def calibration(count: int) -> int:
    """How many of `count` examples a race calibrates on: an eighth, 64 at least.

    Measured on ResNet-56: scores with 64 rank plans as those with 512 do.
    """
    return min(count, max(64, count // 8))


def race(
    see: Callable[[int, int], Found],
    original: Found,
    metric: Metric,
    floor: float,
    batch: int,
) -> dict[str, float]:
    """Metrics of a candidate: exact on all examples, or estimates that are below the floor.

    Args:
        see: gives the candidate's results on the examples from one place up to another.
        original: the original's, on all examples.
        metric: the score's.
        floor: the score to beat.
        batch: judgements lie between batches of so many examples.
    Returns:
        The metrics, and as `examples` how many were seen.
    """
    count = len(original["kl"])
    seen: list[Found] = []
    at = 0
    for stop in [*stops(count, batch), count]:
        seen.append(see(at, stop))
        at = stop
        found = {name: torch.cat([part[name] for part in seen]) for name in original}
        if at < count:
            metrics = estimated(found, original)
            score = score_of(metric, metrics)
            if score is not None and score + Z * error(found, original, metric) < floor:
                return metrics | {"examples": float(at)}
    return {name: float(value.mean()) for name, value in found.items()} | {"examples": float(at)}


def estimated(found: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> dict[str, float]:
    """The metrics on all examples, from results on the first of them."""
    metrics = {}
    for name, values in found.items():
        difference = values - original[name][: len(values)]
        value = float(original[name].mean() + difference.mean())
        metrics[name] = min(max(value, 0.0), 1.0) if name in _ACCURACIES else value
    return metrics


def error(found: Mapping[str, Tensor], original: Mapping[str, Tensor], metric: Metric) -> float:
    """Standard error of the estimated score."""
    name = metric if metric in found else "kl"  # as `score_of` has it
    difference = found[name] - original[name][: len(found[name])]
    n, count = len(difference), len(original[name])
    return float(difference.std()) * math.sqrt((1 - n / count) / n)
