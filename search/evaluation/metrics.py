"""What is measured on a set of examples, in one pass, against labels and the original network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from search.spec import Metric


def distance(logits: Tensor, original: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of the network's distribution from the original's, mean over the examples.

    Args:
        logits: `(n, classes)`, as `original`.
    Returns:
        A scalar times `temperature ** 2`, which keeps gradients of one size: Hinton et al. 2015,
        arXiv:1503.02531, section 2.
    """
    return (
        functional.kl_div(
            functional.log_softmax(logits / temperature, 1),
            functional.log_softmax(original / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def each(logits: Tensor, original: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """What each example contributes to each metric, `(n,)` float64.

    Args:
        logits: `(n, classes)`, as `original`.
        labels: `(n,)`, if there are any.
    Returns:
        By name; `top5` only with more than 5 classes, `top1`, `top5` and `cross_entropy` only with
        labels.
    """
    choice = logits.argmax(1)
    logs, wanted = (functional.log_softmax(x.double(), 1) for x in (logits, original))
    found = {
        "agreement": (choice == original.argmax(1)).double(),
        "kl": (wanted.exp() * (wanted - logs)).sum(1),
    }
    if labels is None:
        return found
    found["top1"] = (choice == labels).double()
    found["cross_entropy"] = -logs.gather(1, labels[:, None]).squeeze(1)
    if logits.shape[1] > 5:
        best = logits.topk(5, dim=1).indices
        found["top5"] = (best == labels[:, None]).any(1).double()
    return found


class Tally:
    """Sums over batches; `metrics()` divides.

    Accuracies and agreement are fractions of 1, `cross_entropy` and `kl` are means in nats.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, float] = {}

    def add(self, logits: Tensor, original: Tensor, labels: Tensor | None) -> None:
        """Take a batch: `(n, classes)`, `(n, classes)`, `(n,)`."""
        self._count += len(logits)
        for name, values in each(logits, original, labels).items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())

    def metrics(self) -> dict[str, float]:
        """Means by name, see `each`."""
        return {name: value / self._count for name, value in self._sums.items()}


def score_of(metric: Metric, metrics: Mapping[str, float]) -> float | None:
    """The metric with the sign that makes higher better; `None` if it is not a number.

    Without labels `cross_entropy` is against the original's outputs, which differs from `kl` by a
    constant: `-kl` is the score.
    """
    if metric == "cross_entropy":
        score = -metrics["cross_entropy"] if "cross_entropy" in metrics else -metrics["kl"]
    else:
        score = metrics[metric]
    # A network that yields NaN would still "agree" on class 0 by argmax.
    return score if math.isfinite(score) and math.isfinite(metrics["kl"]) else None


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers; JSON has no others."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def outputs(network: torch.nn.Module, inputs: Tensor) -> Tensor:
    """The network's class scores `(n, classes)`, float32."""
    result = network(inputs)
    if isinstance(result, (tuple, list)):
        (result,) = result
    return result.float()  # type: ignore[no-any-return]  # modules are untyped
