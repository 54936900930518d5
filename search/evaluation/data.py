"""Datasets: what a file holds, and whether it fits a network. Imports no torch.

What is read, and under which names, is told in `search.evaluation.sources`.

Inputs are images, `uint8` or float, channels first, last or absent, or plain tensors of any shape,
integers for networks that begin with an embedding. Labels are whole numbers from 0, one an
example; without labels the original network's outputs are the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from search.evaluation.arrays import Array
from search.evaluation.errors import LabelsInvalid
from search.evaluation.images import decode
from search.evaluation.limits import LIMITS, DataLimits
from search.evaluation.sources import SPLITS, Source, open_source
from search.evaluation.values import Values

_LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs `(n, *example_shape)` and labels `(n,)` int64, or `None`."""

    inputs: Array
    labels: Array | None

    def __len__(self) -> int:
        return len(self.inputs)


class Description(BaseModel):
    """What a dataset holds, without its numbers.

    Attributes:
        kind: `"arrays"` or `"images"`.
        example_shape: as stored, without the number of examples.
        holdout_examples: `None` if the file brings no hold-out of its own.
        test_examples: `None` if the file brings no test split.
        largest_label: `None` without labels.
        input_range: least and greatest of the whole numbers in arrays; `None` for others, and for
            datasets that were described before this was.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    example_shape: tuple[int, ...]
    dtype: str
    train_examples: int
    test_examples: int | None
    labelled: bool
    largest_label: int | None
    classes: tuple[str, ...]
    holdout_examples: int | None = None
    input_range: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training examples, and the test split and the hold-out if the file brings them."""

    train: Examples
    test: Examples | None
    description: Description
    holdout: Examples | None = None

    @property
    def labelled(self) -> bool:
        return self.train.labels is not None


def _check_labels(source: Source, ranges: Mapping[str, tuple[int, int]]) -> None:
    for split, (low, high) in ranges.items():
        words = SPLITS[split]
        if low < 0:
            raise LabelsInvalid(f"the {words} labels hold {low}: labels count from 0")
        if high > _LARGEST_LABEL:
            raise LabelsInvalid(
                f"the {words} labels reach {high}, above the limit of {_LARGEST_LABEL}: number the "
                "classes from 0"
            )
        if source.classes and high >= len(source.classes):
            raise LabelsInvalid(
                f"the {words} labels reach {high}, but there are names for "
                f"{len(source.classes)} classes: name {high + 1} of them, or none"
            )
    if "train" in ranges and ranges["train"][0] == ranges["train"][1]:
        raise LabelsInvalid(
            "all training examples have one label: there is nothing to tell apart "
            "(images without class folders are taken as unlabelled)"
        )


def _describe(
    source: Source, labels: Mapping[str, Values], inputs: Mapping[str, Values]
) -> Description:
    """What was found, once every number has been seen.

    Raises:
        LabelsInvalid: labels that make no classes.
    """
    ranges = {split: values.range for split, values in labels.items()}
    _check_labels(source, ranges)
    seen = [values.range for values in inputs.values()] if source.train.dtype.kind in "ui" else []
    return Description(
        kind=source.kind,
        example_shape=source.train.shape[1:],
        dtype=source.train.dtype.name,
        train_examples=source.train.shape[0],
        holdout_examples=source.count("holdout"),
        test_examples=source.count("test"),
        labelled="train" in source.labels,
        largest_label=max((high for _, high in ranges.values()), default=None),
        classes=source.classes,
        input_range=(min(low for low, _ in seen), max(high for _, high in seen)) if seen else None,
    )


def describe_dataset(path: Path, limits: DataLimits = LIMITS) -> dict[str, Any]:
    """The fields of `Description` as JSON values.

    Every number in arrays is looked at, piece by piece; of images only the headers are.

    Raises:
        DatasetError: and its kinds, see `search.evaluation.errors`.
    """
    source = open_source(path, limits)
    labels = {split: Values(lazy) for split, lazy in source.labels.items()}
    inputs = {} if source.folder else {s: Values(lazy) for s, lazy in source.inputs.items()}
    for values in (*labels.values(), *inputs.values()):
        values.look()
    return _describe(source, labels, inputs).model_dump(mode="json")


def load_dataset(path: Path, limits: DataLimits = LIMITS) -> Dataset:
    """Read a dataset whole, within the limits.

    Raises:
        DatasetError: and its kinds, see `search.evaluation.errors`.
    """
    source = open_source(path, limits)
    labels = {split: Values(lazy) for split, lazy in source.labels.items()}
    numbers = {split: values.read().astype(np.int64) for split, values in labels.items()}
    inputs: dict[str, Values] = {}
    if source.folder is not None:
        arrays = decode(source.folder, limits)
    else:
        inputs = {split: Values(lazy) for split, lazy in source.inputs.items()}
        arrays = {split: values.read() for split, values in inputs.items()}
    description = _describe(source, labels, inputs)
    examples: dict[str, Examples] = {}
    for split, values in arrays.items():
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        examples[split] = Examples(native, numbers.get(split))
    return Dataset(examples["train"], examples.get("test"), description, examples.get("holdout"))
