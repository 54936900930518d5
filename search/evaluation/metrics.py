"""What is measured on a set of examples, in one pass, against labels and the original network.

Class scores are read as one choice among the classes, by a softmax; or, as of networks that end in
a sigmoid (`independent`), as a yes or no for each class: then losses and divergences are those of
the classes' own probabilities, added up over the classes. A softmax would leave these free to move,
as it does not see what all scores have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from search.spec import Metric


def distance(
    logits: Tensor, original: Tensor, temperature: float = 1.0, *, independent: bool = False
) -> Tensor:
    """KL divergence of the network's distribution from the original's, mean over the examples.

    Args:
        logits: `(n, classes)`, as `original`.
        independent: see the module.
    Returns:
        A scalar times `temperature ** 2`, which keeps gradients of one size: Hinton et al. 2015,
        arXiv:1503.02531, section 2.
    """
    if independent:
        apart = _divergences(logits / temperature, original / temperature)
        return apart.mean() * temperature**2
    return (
        functional.kl_div(
            functional.log_softmax(logits / temperature, 1),
            functional.log_softmax(original / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def label_loss(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, *, independent: bool = False
) -> Tensor:
    """Cross-entropy against labels, mean over the examples.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`.
        smoothing: share of the target that is the same for all classes; of independent ones, for
            yes and no.
        independent: see the module.
    """
    if not independent:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    wanted = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    wanted = wanted * (1 - smoothing) + smoothing / 2
    return _yes_or_no(logits, wanted).mean()


def _yes_or_no(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of a yes or no for each class, added up: `(n,)`."""
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)


def _divergences(logits: Tensor, original: Tensor) -> Tensor:
    """KL divergence of a yes or no for each class from the original's, added up: `(n,)`."""
    p = original.sigmoid()
    logs = functional.logsigmoid
    yes = p * (logs(original) - logs(logits))
    no = (1 - p) * (logs(-original) - logs(-logits))
    return (yes + no).sum(1)


def each(
    logits: Tensor, original: Tensor, labels: Tensor | None, *, independent: bool = False
) -> dict[str, Tensor]:
    """What each example contributes to each metric, `(n,)` float64.

    Args:
        logits: `(n, classes)`, as `original`.
        labels: `(n,)`, if there are any.
        independent: see the module.
    Returns:
        By name; `top5` only with more than 5 classes, `top1`, `top5` and `cross_entropy` only with
        labels.
    """
    choice = logits.argmax(1)
    found = {"agreement": (choice == original.argmax(1)).double()}
    if independent:
        found["kl"] = _divergences(logits.double(), original.double())
    else:
        logs, wanted = (functional.log_softmax(x.double(), 1) for x in (logits, original))
        found["kl"] = (wanted.exp() * (wanted - logs)).sum(1)
    if labels is None:
        return found
    found["top1"] = (choice == labels).double()
    if independent:
        yes = functional.one_hot(labels, logits.shape[1]).double()
        found["cross_entropy"] = _yes_or_no(logits.double(), yes)
    else:
        found["cross_entropy"] = -logs.gather(1, labels[:, None]).squeeze(1)
    if logits.shape[1] > 5:
        best = logits.topk(5, dim=1).indices
        found["top5"] = (best == labels[:, None]).any(1).double()
    return found


class Tally:
    """Sums over batches; `metrics()` divides.

    Accuracies and agreement are fractions of 1, `cross_entropy` and `kl` are means in nats.

    Args:
        independent: see the module.
    """

    def __init__(self, *, independent: bool = False) -> None:
        self._independent = independent
        self._count = 0
        self._sums: dict[str, float] = {}

    def add(self, logits: Tensor, original: Tensor, labels: Tensor | None) -> None:
        """Take a batch: `(n, classes)`, `(n, classes)`, `(n,)`."""
        self._count += len(logits)
        found = each(logits, original, labels, independent=self._independent)
        for name, values in found.items():
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
    """What the network yields, `(n, classes)`, float32."""
    result = network(inputs)
    if isinstance(result, (tuple, list)):
        (result,) = result
    return result.float()  # type: ignore[no-any-return]  # modules are untyped
