"""The few gradient steps that a trial may have before it is scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from search.evaluation.feed import Feed
from search.evaluation.metrics import distance, label_loss
from search.evaluation.seeds import derive, dropout_seed
from search.evaluation.splits import Indices
from search.evaluation.training import Training
from search.spec import EvaluationSpec

_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4  # NetAdapt's reference code, functions.py


class Tuning:
    """Plain SGD on labels, or without labels towards the original's outputs.

    Args:
        teach: the original's class scores of given inputs.
        feed: the training examples.
        indices: those of them to tune on.
        independent: how class scores are read, see `metrics`.
    """

    def __init__(
        self,
        teach: Callable[[Tensor], Tensor],
        feed: Feed,
        indices: Indices,
        spec: EvaluationSpec,
        *,
        independent: bool = False,
    ) -> None:
        self._independent = independent
        self._teach, self._feed, self._indices, self._spec = teach, feed, indices, spec

    def tune(self, network: GraphModule, steps: int, seed: int) -> None:
        """Train for so many steps, in place, on batches drawn with `seed`; ends in eval mode.

        Parameters that need no gradient stay as they are.
        """
        spec = self._spec
        parameters = [item for item in network.parameters() if item.requires_grad]
        if not parameters:
            network.eval()
            return
        training = Training(network, channels_last=False)
        optimizer = torch.optim.SGD(
            parameters, spec.tuning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
        )
        network.train()
        with dropout_seed(derive(seed, 1), self._feed.device):
            for part in batch_picks(self._indices, spec.batch_size, steps, seed):
                loss = self._loss(training, part)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
                optimizer.step()
        network.eval()

    def _loss(self, network: Training, part: Indices) -> Tensor:
        inputs = self._feed.inputs(part)
        logits = network(inputs).float()
        if self._feed.labelled:
            labels = self._feed.labels(part)
            return label_loss(logits, labels, independent=self._independent)
        return distance(logits, self._teach(inputs), independent=self._independent)


def batch_picks(indices: Indices, batch_size: int, steps: int, seed: int) -> list[Indices]:
    """`steps` batches without replacement, reshuffled each time the examples are used up."""
    generator = np.random.default_rng(seed)
    size = min(batch_size, len(indices))
    per_round = len(indices) // size
    picks: list[Indices] = []
    while len(picks) < steps:
        order = generator.permutation(indices)
        picks += [order[i * size : (i + 1) * size] for i in range(per_round)]
    return picks[:steps]
