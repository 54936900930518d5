"""Measures networks on a job's splits, beside the original.

Deterministic in its arguments and the specification's seed, whatever was measured before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from espalier.format.errors import EspalierError
from espalier.format.manifest import Manifest, Preprocessing
from search.evaluation.class_scores import ClassScores
from search.evaluation.data import Dataset
from search.evaluation.feed import Feed
from search.evaluation.fit import check_augment, check_fits, check_metric
from search.evaluation.inference import Inference
from search.evaluation.metrics import Tally, each, finite, outputs, score_of
from search.evaluation.plausibility import Answers
from search.evaluation.racing import race
from search.evaluation.scoring import Inputs, Scorer, batch_of
from search.evaluation.seeds import derive
from search.evaluation.splits import Indices, split
from search.space import SearchSpace
from search.spec import JobSpec

SplitName = Literal["calibration", "tuning", "holdout", "test"]

_ORDER = 4  # stream of the specification's seed; 0 is the splits', the others the steps'


class OriginalUnusable(EspalierError):
    """An original network whose outputs on the hold-out are not numbers."""

    code = "evaluation.original"


class Examiner:
    """Measures any network of the original's inputs and outputs.

    All that it measures and all that trains goes by class scores: `original`, `space` and the
    networks made of them are without the softmax or sigmoid that may follow (`scores`).

    Args:
        network: the original, as `espalier.load` gives it; never changed.
        space: its channel groups.
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
        self.fit = check_fits(dataset.description, space.graph, manifest.classes)
        self.labelled = dataset.labelled
        check_augment(spec.finetune.augment, self.fit.input_shape)
        check_metric(spec.evaluation.metric, labelled=self.labelled, classes=self.fit.outputs)
        self.scores = ClassScores(space, skips=spec.skips_heads)
        self.space = self.scores.space
        self.spec = spec
        self._manifest = manifest
        self.original = self.scores.network(network.to(self.device)).eval()
        self.splits = split(
            dataset,
            spec.evaluation,
            derive(spec.seed, 0),
            calibrates=spec.calibrates,
            stratifies=spec.stratifies,
        )
        self.feed = Feed(dataset.train, self.fit, manifest.preprocessing, self.device)
        own_test = dataset.test if self.splits.own_test and dataset.test else dataset.train
        self._test_feed = Feed(own_test, self.fit, manifest.preprocessing, self.device)
        own_holdout = dataset.holdout or dataset.train
        self._holdout_feed = Feed(own_holdout, self.fit, manifest.preprocessing, self.device)
        # Races see the first of the hold-out only, and they and drafts the first of calibration:
        # data that are sorted by class would mislead them.
        random = np.random.default_rng(derive(spec.seed, _ORDER))
        self._holdout: Indices = random.permutation(self.splits.holdout)
        calibration = random.permutation(self.splits.calibration)
        self._calibration = self._inputs(self.feed, calibration)
        self._scorer = Scorer(
            self.original,
            self._calibration,
            self._inputs(self._holdout_feed, self._holdout),
            batch_size=spec.evaluation.batch_size,
            dtype=torch.bfloat16 if spec.evaluation.precision == "bfloat16" else None,
        )
        self._races = spec.evaluation.racing
        self._references: dict[str, Tensor] = {}
        self._baseline: dict[str, float] | None = None

    def examples(self, name: SplitName) -> tuple[Feed, Indices]:
        """Where a split's examples come from, and which they are."""
        indices: Indices = getattr(self.splits, name)
        feeds = {"holdout": self._holdout_feed, "test": self._test_feed}
        return feeds.get(name, self.feed), indices

    def _inputs(self, feed: Feed, indices: Indices) -> Inputs:
        size = batch_of(self.spec.evaluation.batch_size, self.device)
        return Inputs(len(indices), size, lambda a, b: feed.inputs(indices[a:b]))

    def _outputs(self, network: nn.Module, split: SplitName) -> Iterator[tuple[Indices, Tensor]]:
        """Examples of a split and the network's class scores; the order is always the same."""
        feed, indices = self.examples(split)
        if isinstance(network, GraphModule):
            network = self.scores.network(network)
        if split == "holdout":
            indices = self._holdout
            if isinstance(network, GraphModule):
                yield indices, self._scorer.outputs(network)(0, len(indices))
                return
        network.eval()
        with torch.inference_mode():
            for part, inputs in feed.batches(indices, self.spec.evaluation.batch_size):
                yield part, self.scores.of(network, outputs(network, inputs))

    def reference(self, name: SplitName) -> Tensor:
        """The original's class scores on a split, `(n, classes)`, computed once."""
        if name not in self._references:
            parts = [logits for _, logits in self._outputs(self.original, name)]
            self._references[name] = torch.cat(parts)
        return self._references[name]

    def measure(self, network: nn.Module, split: SplitName) -> dict[str, float]:
        """Metrics of any network of the same inputs and outputs, see `metrics.Tally`.

        The network is put into eval mode, where it stays. On the hold-out a built network runs in
        its folded form (`search.evaluation.inference`), elsewhere as it is. The test split is for
        the final report.
        """
        feed, _ = self.examples(split)
        reference = self.reference(split)
        tally, at = Tally(independent=self.scores.independent), 0
        for part, logits in self._outputs(network, split):
            labels = feed.labels(part) if self.labelled else None
            tally.add(logits, reference[at : at + len(part)], labels)
            at += len(part)
        return tally.metrics()

    def teach(self, inputs: Tensor) -> Tensor:
        """The original's class scores `(n, classes)` of any inputs `(n, ...)`, to train towards."""
        with torch.no_grad():
            parts = torch.split(inputs, self._calibration.batch)
            return torch.cat([self._teacher(part).float() for part in parts])

    @cached_property
    def _teacher(self) -> Inference:
        return Inference(self.original)

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

    def answers(self) -> Answers | None:
        """What the original answers on the hold-out; `None` without labels."""
        if not self.labelled:
            return None
        manifest = self._manifest
        return Answers(
            self.reference("holdout").argmax(1).cpu().numpy(),
            self._holdout_feed.labels(self._holdout).cpu().numpy(),
            manifest.classes,
            manifest.preprocessing != Preprocessing(),
        )

    def first(self, network: GraphModule, count: int) -> dict[str, float]:
        """Metrics on the first of the hold-out, and as `examples` on how many.

        Args:
            count: of examples, rounded up to whole batches.
        """
        size = self._calibration.batch
        count = min(-(-count // size) * size, len(self._holdout))
        logits = self._scorer.outputs(network)(0, count)
        labels = self._holdout_feed.labels(self._holdout[:count]) if self.labelled else None
        tally = Tally(independent=self.scores.independent)
        tally.add(logits, self.reference("holdout")[:count], labels)
        return finite(tally.metrics()) | {"examples": float(count)}

    def raced(self, network: GraphModule, floor: float | None) -> dict[str, float]:
        """Metrics on the hold-out, or in a race on enough to tell that the floor is not beaten."""
        if floor is None or not self._races:
            return self.measure(network, "holdout")
        run, reference = self._scorer.outputs(network), self.reference("holdout")
        labels = self._holdout_feed.labels(self._holdout) if self.labelled else None

        def see(a: int, b: int) -> dict[str, Tensor]:
            part = None if labels is None else labels[a:b]
            return self._contributions(run(a, b), reference[a:b], part)

        return race(see, self._each, self.spec.evaluation.metric, floor, self._calibration.batch)

    @cached_property
    def _each(self) -> dict[str, Tensor]:
        """What each example contributes to the original's metrics on the hold-out."""
        logits = self.reference("holdout")
        labels = self._holdout_feed.labels(self._holdout) if self.labelled else None
        return self._contributions(logits, logits, labels)

    def _contributions(
        self, logits: Tensor, original: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        return each(logits, original, labels, independent=self.scores.independent)
