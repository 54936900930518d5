"""Who sees which examples: calibration, tuning, hold-out and test, never shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from search.evaluation.data import Dataset
from search.evaluation.errors import DatasetTooSmall
from search.spec import EvaluationSpec

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint sets of examples, by index.

    Attributes:
        calibration: for batch-norm statistics, of the training examples.
        tuning: for gradient steps; all the training examples that are left.
        holdout: scores the trials and the epochs of fine-tuning.
        test: for the final report, once; indices into `dataset.test` if `own_test`, else into the
            training examples.
        own_test: whether the data brought its own test split, which is then used whole.
    """

    calibration: Indices
    tuning: Indices
    holdout: Indices
    test: Indices
    own_test: bool


def split(dataset: Dataset, spec: EvaluationSpec, seed: int) -> Splits:
    """Divide a dataset at random, the same way for the same seed.

    Raises:
        DatasetTooSmall: calibration and hold-out do not leave two examples to tune on.
    """
    count = len(dataset.train)
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    if dataset.test is not None:
        test, rest = np.arange(len(dataset.test), dtype=np.int64), order
    else:
        share = max(1, round(count * spec.test_fraction))
        test, rest = order[:share], order[share:]
    holdout, calibration, tuning = np.split(rest, [spec.holdout, spec.holdout + spec.calibration])
    if len(tuning) < 2:  # batch-norm cannot be trained on a single example
        raise DatasetTooSmall(
            f"{len(rest)} examples are left for training, but hold-out takes {spec.holdout} and "
            f"calibration {spec.calibration}: lower {_lower(spec, len(rest))}, or bring more data"
        )
    return Splits(
        np.sort(calibration),
        np.sort(tuning),
        np.sort(holdout),
        np.sort(test),
        dataset.test is not None,
    )


def _lower(spec: EvaluationSpec, rest: int) -> str:
    """The setting that takes the most, with a value that would do."""
    if rest < 4:
        return "evaluation.test_fraction"
    if spec.holdout >= spec.calibration:
        return f"evaluation.holdout (say, to {max(1, rest // 4)})"
    return f"evaluation.calibration (say, to {rest // 4})"
