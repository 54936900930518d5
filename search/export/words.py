"""Numbers and names as people read them."""

from __future__ import annotations

from collections.abc import Mapping

COSTS: Mapping[str, str] = {
    "macs": "Multiply-accumulates",
    "params": "Parameters",
    "weight_bytes": "Weights",
    "peak_activation_bytes": "Peak activations",
}
METRICS: Mapping[str, str] = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "agreement": "Agreement with the original",
    "cross_entropy": "Cross-entropy",
    "kl": "Divergence from the original",
}
STRATEGIES: Mapping[str, str] = {
    "uniform": "Uniform",
    "random": "Random search",
    "netadapt": "NetAdapt",
    "sensitivity": "Sensitivity of single groups",
    "optuna": "Optuna",
    "amc": "AMC",
    "allocate": "Exact allocation",
}
_FRACTIONS = frozenset({"top1", "top5", "agreement"})


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share of the examples, where higher is better."""
    return metric in _FRACTIONS


def metric_text(metric: str, value: float) -> str:
    return f"{100 * value:.2f} %" if is_fraction(metric) else f"{value:.4g}"


def cost_unit(cost: str, value: float) -> tuple[float, str]:
    """The factor and the unit in which a cost reads well."""
    if cost.endswith("bytes"):
        steps = [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")]
    else:
        steps = [(10**9, "G"), (10**6, "M"), (10**3, "k"), (1, "")]
    for factor, unit in steps:
        if value >= factor:
            return factor, unit
    return 1, steps[-1][1]


def cost_text(cost: str, value: int) -> str:
    if not cost.endswith("bytes") and value < 10**6:
        return f"{value:,}"
    factor, unit = cost_unit(cost, value)
    return f"{value / factor:.4g} {unit}".strip() if factor > 1 else f"{value} {unit}".strip()


def seconds_text(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def change_text(before: float, after: float) -> str:
    """A relative change; falls are the point, so they carry a true minus sign."""
    if not before:
        return "–"
    percent = 100 * (after - before) / before
    sign = "−" if percent < 0 else "+"
    return "±0 %" if abs(percent) < 0.05 else f"{sign}{abs(percent):.1f} %"


def share_text(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def points_text(before: float, after: float) -> str:
    """A difference of two fractions, in percentage points."""
    points = 100 * (after - before)
    sign = "−" if points < 0 else "+"
    return "±0 points" if abs(points) < 0.005 else f"{sign}{abs(points):.2f} points"
