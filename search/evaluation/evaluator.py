"""Turns a plan into a score: cut, start weights, short tuning, recalibration, hold-out.

Deterministic in its arguments and its seed, whatever was evaluated before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from espalier.format.errors import EspalierError
from espalier.format.package import Manifest
from search.evaluation.data import Dataset
from search.evaluation.feed import Feed
from search.evaluation.fit import check_augment, check_fits, check_metric
from search.evaluation.metrics import Tally, distance, finite, outputs, score_of
from search.evaluation.recalibrate import recalibrate, tracked_norms
from search.evaluation.seeds import derive, dropout_seed
from search.evaluation.splits import Indices, split
from search.pruning import apply, apply_further, clone
from search.space import Kept, SearchSpace
from search.spec import JobSpec

Start = tuple[Kept, Mapping[str, Tensor]]
SplitName = Literal["calibration", "tuning", "holdout", "test"]
_CACHED = 4096
_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4  # NetAdapt's reference code, functions.py


class OriginalUnusable(EspalierError):
    """An original network whose outputs on the hold-out are not numbers."""

    code = "evaluation.original"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a plan gave.

    Attributes:
        metrics: on the hold-out, those that are numbers.
        score: higher is better; `None` if the network's outputs are not numbers any more.
        kept: what was evaluated.
        state: the network's `state_dict` on the CPU if its weights were tuned, here or in a
            parent; else empty, since `kept` and the original give it.
    """

    metrics: Mapping[str, float]
    score: float | None
    kept: Kept
    state: Mapping[str, Tensor] = field(default_factory=dict)


class Evaluator:
    """Scores plans for one network, dataset and specification.

    Args:
        network: the original, as `espalier.load` gives it; never changed.
        device: where everything runs.

    Raises:
        DatasetError: data that does not fit the network or the specification.
        OriginalUnusable: the original yields NaN or infinity on the hold-out.
    """

    def __init__(
        self,
        network: GraphModule,
        space: SearchSpace,
        dataset: Dataset,
        manifest: Manifest,
        spec: JobSpec,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.fit = check_fits(dataset.description, space.graph)
        self.labelled = dataset.labelled
        check_augment(spec.finetune.augment, self.fit.input_shape)
        check_metric(spec.evaluation.metric, labelled=self.labelled, classes=self.fit.outputs)
        self.space = space
        self.spec = spec
        self.original = network.to(self.device).eval()
        self.splits = split(dataset, spec.evaluation, derive(spec.seed, 0))
        self.feed = Feed(dataset.train, self.fit, manifest.preprocessing, self.device)
        own_test = dataset.test if self.splits.own_test and dataset.test else dataset.train
        self._test_feed = Feed(own_test, self.fit, manifest.preprocessing, self.device)
        own_holdout = dataset.holdout or dataset.train
        self._holdout_feed = Feed(own_holdout, self.fit, manifest.preprocessing, self.device)
        self._references: dict[str, Tensor] = {}
        self._cache: OrderedDict[Kept, Evaluated] = OrderedDict()
        self._baseline: dict[str, float] | None = None

    # --- measuring ------------------------------------------------------------------------------

    def examples(self, name: SplitName) -> tuple[Feed, Indices]:
        """Where a split's examples come from, and which they are."""
        indices: Indices = getattr(self.splits, name)
        feeds = {"holdout": self._holdout_feed, "test": self._test_feed}
        return feeds.get(name, self.feed), indices

    def reference(self, name: SplitName) -> Tensor:
        """The original's class scores on a split, `(n, classes)`, computed once."""
        if name not in self._references:
            feed, indices = self.examples(name)
            size = self.spec.evaluation.batch_size
            with torch.no_grad():
                parts = [outputs(self.original, x) for _, x in feed.batches(indices, size)]
            self._references[name] = torch.cat(parts)
        return self._references[name]

    def measure(self, network: nn.Module, split: SplitName) -> dict[str, float]:
        """Metrics of any network of the same inputs and outputs, see `metrics.Tally`.

        The network is put into eval mode, where it stays. The test split is for the final report.
        """
        feed, indices = self.examples(split)
        reference = self.reference(split)
        network.eval()
        tally, at = Tally(), 0
        with torch.inference_mode():
            for part, inputs in feed.batches(indices, self.spec.evaluation.batch_size):
                labels = feed.labels(part) if self.labelled else None
                tally.add(outputs(network, inputs), reference[at : at + len(part)], labels)
                at += len(part)
        return tally.metrics()

    def score(self, metrics: Mapping[str, float]) -> float | None:
        """The specification's metric, higher is better; `None` if it is not a number."""
        return score_of(self.spec.evaluation.metric, metrics)

    def baseline(self) -> dict[str, float]:
        """Hold-out metrics of the original."""
        if self._baseline is None:
            measured = self.measure(self.original, "holdout")
            if self.score(measured) is None:
                raise OriginalUnusable(
                    "the original network's outputs on the hold-out are not finite numbers: check "
                    "its weights and the preprocessing it was packed with"
                )
            self._baseline = measured
        return dict(self._baseline)

    # --- evaluating plans -----------------------------------------------------------------------

    def network(self, kept: Kept, start: Start | None = None) -> GraphModule:
        """A pruned network of its own tensors, in eval mode, with the start's weights if given.

        A start at `kept` itself gives the network that was evaluated, statistics included; without
        a start the statistics are those of the original.
        """
        if start is None:
            return clone(apply(self.original, self.space, kept)).eval()
        parent, state = start
        cut = clone(apply(self.original, self.space, parent))
        cut.load_state_dict(dict(state))
        return apply_further(cut, self.space, parent, kept).eval() if parent != kept else cut.eval()

    def is_whole(self, kept: Kept) -> bool:
        """Whether nothing is cut: untuned, that is the original, which keeps its statistics."""
        return tuple(map(len, kept)) == self.space.full

    def recalibrate(self, network: nn.Module) -> None:
        """Batch-norm statistics from the calibration examples, in place."""
        indices, size = self.splits.calibration, self.spec.evaluation.batch_size
        if len(indices) < 2 or not tracked_norms(network):  # one example has no variance
            return
        whole = len(indices) // size * size or len(indices)
        batches = self.feed.batches(indices[:whole], size)
        recalibrate(network, (inputs for _, inputs in batches))

    def evaluate(
        self, kept: Kept, *, start: Start | None = None, tuning_steps: int = 0, seed: int = 0
    ) -> Evaluated:
        """Score what is left of the original when only `kept` stays.

        Args:
            start: a parent's kept channels, of which `kept` is a subset, and its tuned weights.
            tuning_steps: gradient steps before the score, on examples drawn with `seed`.
        """
        plain = start is None and tuning_steps == 0
        if plain and kept in self._cache:
            self._cache.move_to_end(kept)
            return self._cache[kept]
        # Nothing trains a plain network, so it may share the original's tensors.
        network = apply(self.original, self.space, kept) if plain else self.network(kept, start)
        if tuning_steps:
            self._tune(network, tuning_steps, seed)
        if not (plain and self.is_whole(kept)):
            self.recalibrate(network)
        metrics = self.measure(network, "holdout")
        state = {} if plain else snapshot(network)
        result = Evaluated(finite(metrics), self.score(metrics), kept, state)
        if plain:
            self._cache[kept] = result
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return result

    def _tune(self, network: nn.Module, steps: int, seed: int) -> None:
        """Plain SGD on batches drawn with `seed`; without labels towards the original's outputs."""
        spec = self.spec.evaluation
        optimizer = torch.optim.SGD(
            network.parameters(), spec.tuning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
        )
        picks = batch_picks(self.splits.tuning, spec.batch_size, steps, seed)
        network.train()
        with dropout_seed(derive(seed, 1), self.device):
            for part in picks:
                inputs = self.feed.inputs(part)
                logits = outputs(network, inputs)
                if self.labelled:
                    loss = functional.cross_entropy(logits, self.feed.labels(part))
                else:
                    with torch.no_grad():
                        wanted = outputs(self.original, inputs)
                    loss = distance(logits, wanted)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's is not annotated
                optimizer.step()
        network.eval()


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


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the `state_dict` on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in network.state_dict().items()
    }
