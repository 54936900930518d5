"""Who sees which examples: calibration, tuning, hold-out and test, never shared.

Where there are labels every split is made up of the classes as the data is, see
`search.evaluation.stratify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from search.evaluation.data import Dataset
from search.evaluation.errors import DatasetTooSmall
from search.evaluation.stratify import stratified
from search.spec import EvaluationSpec

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint sets of examples, by index into the training examples if not said otherwise.

    Attributes:
        calibration: for batch-norm statistics.
        tuning: for gradient steps; all the training examples that are left.
        holdout: scores the trials and the epochs of fine-tuning; indices into `dataset.holdout` if
            `own_holdout`.
        test: for the final report, once; indices into `dataset.test` if `own_test`.
        own_holdout: whether the data brought its own hold-out, of which as many examples are used
            as the specification asks for.
        own_test: whether the data brought its own test split, which is then used whole.
    """

    calibration: Indices
    tuning: Indices
    holdout: Indices
    test: Indices
    own_holdout: bool
    own_test: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many examples each split takes."""

    calibration: int
    tuning: int
    holdout: int
    test: int


def sizes(
    train: int,
    own_holdout: int | None,
    own_test: int | None,
    spec: EvaluationSpec,
    *,
    calibrates: bool = False,
) -> Sizes:
    """The sizes of the splits; the hold-out takes a quarter of the examples at most.

    Calibration takes half of what is left at most.

    Args:
        train: training examples.
        own_holdout: examples of the hold-out that the data bring, if any.
        own_test: test examples that the data bring, if any.
        calibrates: whether the job cannot do without calibration, see `JobSpec.calibrates`.

    Raises:
        DatasetTooSmall: what is left is less than two examples to tune on, too few for batch-norm,
            or nothing for a calibration that is needed.
    """
    test = max(1, round(train * spec.test_fraction)) if own_test is None else own_test
    left = train - test if own_test is None else train
    taken = min(spec.holdout, max(1, left // 4)) if own_holdout is None else 0
    holdout = taken if own_holdout is None else min(spec.holdout, own_holdout)
    rest = left - taken
    calibration = max(0, min(spec.calibration, rest // 2, rest - 2))  # batch-norm takes two
    tuning = left - taken - calibration
    if tuning < 2:
        raise DatasetTooSmall(
            f"{max(left, 0)} examples are left for the search and training, of which the hold-out "
            f"takes {taken}: bring at least 3 besides the test, or lower evaluation.test_fraction",
            "evaluation.test_fraction" if own_test is None and train > 3 else "dataset",
        )
    if calibrates and not calibration:
        raise DatasetTooSmall(
            f"{left} examples are left for the search and training, and none of them for the "
            "calibration that the strategy allocate and the criterion obs go by: bring at least 4 "
            "besides the test, or name another strategy and criterion"
        )
    return Sizes(calibration, tuning, holdout, test)


_RARE = ("holdout", "tuning", "test", "calibration")
"""Which splits get the few examples of a rare class: first those that tell it and that teach it."""


def split(
    dataset: Dataset,
    spec: EvaluationSpec,
    seed: int,
    *,
    calibrates: bool = False,
    stratifies: bool = True,
) -> Splits:
    """Divide a dataset at random, the same way for the same seed.

    Args:
        calibrates: see `sizes`.
        stratifies: by class, where there are labels.

    Raises:
        DatasetTooSmall: see `sizes`.
    """
    own_holdout, own_test = (
        None if own is None else len(own) for own in (dataset.holdout, dataset.test)
    )
    take = sizes(len(dataset.train), own_holdout, own_test, spec, calibrates=calibrates)
    random = np.random.default_rng(seed)
    labels = dataset.train.labels
    if stratifies and labels is not None:
        return _stratified(dataset, labels, take, random)
    order = random.permutation(len(dataset.train)).astype(np.int64)
    if own_test is not None:
        test, rest = np.arange(take.test, dtype=np.int64), order
    else:
        test, rest = order[: take.test], order[take.test :]
    if own_holdout is not None:
        holdout = random.permutation(own_holdout).astype(np.int64)[: take.holdout]
    else:
        holdout, rest = rest[: take.holdout], rest[take.holdout :]
    calibration, tuning = rest[: take.calibration], rest[take.calibration :]
    return Splits(
        np.sort(calibration),
        np.sort(tuning),
        np.sort(holdout),
        np.sort(test),
        own_holdout is not None,
        own_test is not None,
    )


def _stratified(
    dataset: Dataset, labels: Indices, take: Sizes, random: np.random.Generator
) -> Splits:
    counts = {"calibration": take.calibration, "tuning": take.tuning}
    if dataset.holdout is None:
        counts = {"holdout": take.holdout} | counts
    if dataset.test is None:
        counts = {"test": take.test} | counts
    found = stratified(labels, counts, _RARE, random)
    if dataset.test is not None:
        found["test"] = np.arange(take.test, dtype=np.int64)
    if dataset.holdout is not None and dataset.holdout.labels is not None:
        count = {"holdout": take.holdout}
        found |= stratified(dataset.holdout.labels, count, _RARE, random)
    return Splits(
        **{name: np.sort(places) for name, places in found.items()},
        own_holdout=dataset.holdout is not None,
        own_test=dataset.test is not None,
    )
