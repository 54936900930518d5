"""Datasets: what a file holds, and whether it fits a network. Imports no torch.

Three kinds of files are read, told apart by their first bytes:

- `.npz` without pickles, and safetensors, with arrays named `train_images`, `train_inputs`,
  `images`, `inputs`, `x` or `x_train`; labels `train_labels`, `labels`, `y` or `y_train`; a test
  split as `test_images`, `test_inputs` or `x_test` with `test_labels` or `y_test`; a hold-out as
  `holdout_images`, `holdout_inputs`, `val_images`, `val_inputs` or `x_val` with `holdout_labels`,
  `val_labels` or `y_val`; names of the classes as `class_names` or `classes` (in safetensors: the
  metadata field `classes`, JSON);
- folders of images in a zip or tar file, see `search.evaluation.images`.

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

from search.evaluation.archives import LIMITS, DataLimits
from search.evaluation.arrays import Array, Lazy, is_npz, npz_arrays, safetensors_arrays
from search.evaluation.errors import DatasetError, DatasetTooLarge, LabelsInvalid
from search.evaluation.images import ImageFolder, decode, scan

_KEYS: Mapping[str, tuple[str, ...]] = {
    "train": ("train_images", "train_inputs", "images", "inputs", "x", "x_train"),
    "train labels": ("train_labels", "labels", "y", "y_train"),
    "holdout": ("holdout_images", "holdout_inputs", "val_images", "val_inputs", "x_val"),
    "holdout labels": ("holdout_labels", "val_labels", "y_val"),
    "test": ("test_images", "test_inputs", "x_test"),
    "test labels": ("test_labels", "y_test"),
    "classes": ("class_names", "classes"),
}
_SPLITS: Mapping[str, str] = {"train": "training", "holdout": "hold-out", "test": "test"}


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
        input_range: least and greatest of the whole numbers in arrays that were read; else `None`.
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


@dataclass(frozen=True, slots=True)
class _Source:
    """A dataset's file: headers and labels are known, inputs are not read yet."""

    inputs: Mapping[str, Lazy]
    labels: Mapping[str, Array]
    classes: tuple[str, ...]
    kind: str
    folder: ImageFolder | None = None

    @property
    def train(self) -> Lazy:
        return self.inputs["train"]

    def count(self, split: str) -> int | None:
        """How many examples a split has, if the file brings it."""
        return self.inputs[split].shape[0] if split in self.inputs else None


def _file_kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        return "zip"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "tar"
    if head[8:9] == b"{":
        return "safetensors"
    raise DatasetError(
        "the file is no dataset that is read: use .npz, safetensors, or a zip or tar file of images"
    )


def _labels(lazy: Lazy, examples: int) -> Array:
    shape = lazy.shape[:1] if lazy.shape[1:] == (1,) else lazy.shape
    if len(shape) != 1:
        raise LabelsInvalid(
            f"array {lazy.name!r} has shape {lazy.shape}: labels are one class number an example"
        )
    if lazy.dtype.kind not in "bui":
        raise LabelsInvalid(
            f"array {lazy.name!r} has type {lazy.dtype}: labels are whole numbers from 0"
        )
    if shape[0] != examples:
        raise LabelsInvalid(f"array {lazy.name!r} has {shape[0]} labels for {examples} examples")
    labels = lazy.read().reshape(-1)
    if labels.dtype.kind == "u" and labels.size and int(labels.max()) >= 2**31:
        raise LabelsInvalid(f"array {lazy.name!r} holds the label {int(labels.max())}")
    return labels.astype(np.int64)


def _from_arrays(arrays: dict[str, Lazy], classes: tuple[str, ...]) -> _Source:
    known = {name for names in _KEYS.values() for name in names}
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise DatasetError(
            f"array {unknown[0]!r} has no known meaning; known are {', '.join(sorted(known))}"
        )
    found: dict[str, Lazy] = {}
    for meaning, names in _KEYS.items():
        here = [name for name in names if name in arrays]
        if len(here) > 1:
            raise DatasetError(f"arrays {here[0]!r} and {here[1]!r} mean the same: keep one")
        if here:
            found[meaning] = arrays[here[0]]
    if "train" not in found:
        raise DatasetError(f"no inputs: name their array one of {', '.join(_KEYS['train'])}")
    inputs = {split: found[split] for split in _SPLITS if split in found}
    for lazy in inputs.values():
        if not lazy.shape or lazy.dtype.kind not in "buif":
            raise DatasetError(f"array {lazy.name!r} of {lazy.dtype} and {lazy.shape} is no input")
    labels: dict[str, Array] = {}
    for split, words in _SPLITS.items():
        if f"{split} labels" not in found:
            continue
        if split not in inputs:
            raise DatasetError(f"there are {words} labels but no {words} inputs")
        labels[split] = _labels(found[f"{split} labels"], inputs[split].shape[0])
    if "classes" in found:
        classes = _class_names(found["classes"])
    return _Source(inputs, labels, classes, "arrays")


def _class_names(lazy: Lazy) -> tuple[str, ...]:
    if lazy.dtype.kind not in "US" or len(lazy.shape) != 1:
        raise DatasetError(f"array {lazy.name!r} must be a list of names")
    values = lazy.read().tolist()
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values)


def _from_images(path: Path, kind: str, limits: DataLimits) -> _Source:
    folder = scan(path, kind, limits)

    def lazy(split: str) -> Lazy:
        def unread() -> Array:
            raise AssertionError("images are decoded together")

        shape = (len(folder.names[split]), *folder.example_shape)
        return Lazy(split, shape, np.dtype(np.uint8), unread)

    inputs = {split: lazy(split) for split in _SPLITS if split in folder.names}
    return _Source(inputs, folder.labels or {}, folder.classes, "images", folder)


def _open(path: Path, limits: DataLimits) -> _Source:
    kind = _file_kind(path)
    if kind == "safetensors":
        source = _from_arrays(*safetensors_arrays(path, limits))
    elif kind == "zip" and is_npz(path, limits):
        source = _from_arrays(npz_arrays(path, limits), ())
    else:
        source = _from_images(path, kind, limits)
    _check(source, limits)
    return source


def _check(source: _Source, limits: DataLimits) -> None:
    train, labels = source.train, source.labels
    total = sum(lazy.nbytes for lazy in source.inputs.values())
    if total > limits.max_bytes:
        raise DatasetTooLarge(f"{total} bytes of inputs are above the limit of {limits.max_bytes}")
    for split, lazy in source.inputs.items():
        words = _SPLITS[split]
        if 0 in lazy.shape:
            raise DatasetError(f"the {words} inputs have shape {lazy.shape}: there are no examples")
        if (lazy.shape[1:], lazy.dtype) != (train.shape[1:], train.dtype):
            raise DatasetError(
                f"{words} examples are {lazy.shape[1:]} of {lazy.dtype}, training examples "
                f"{train.shape[1:]} of {train.dtype}: store both alike"
            )
        if ("train" in labels) != (split in labels):
            raise LabelsInvalid(f"label both the training and the {words} examples, or neither")
    for split, values in labels.items():
        words = _SPLITS[split]
        if int(values.min()) < 0:
            raise LabelsInvalid(f"the {words} labels hold {int(values.min())}: labels count from 0")
        if source.classes and int(values.max()) >= len(source.classes):
            raise LabelsInvalid(
                f"the {words} labels reach {int(values.max())}, but there are names for "
                f"{len(source.classes)} classes"
            )
    if "train" in labels and len(np.unique(labels["train"])) < 2:
        raise LabelsInvalid(
            "all training examples have one label: there is nothing to tell apart "
            "(images without class folders are taken as unlabelled)"
        )


def _describe(source: _Source) -> Description:
    largest = max((int(values.max()) for values in source.labels.values()), default=None)
    return Description(
        kind=source.kind,
        example_shape=source.train.shape[1:],
        dtype=source.train.dtype.name,
        train_examples=source.train.shape[0],
        holdout_examples=source.count("holdout"),
        test_examples=source.count("test"),
        labelled="train" in source.labels,
        largest_label=largest,
        classes=source.classes,
    )


def describe_dataset(path: Path, limits: DataLimits = LIMITS) -> dict[str, Any]:
    """The fields of `Description` as JSON values; labels and headers are read, inputs are not.

    Raises:
        DatasetError: and its kinds, see `search.evaluation.errors`.
    """
    return _describe(_open(path, limits)).model_dump(mode="json")


def _finite(name: str, inputs: Array) -> None:
    rows = max(1, 2**22 // max(1, inputs[:1].size))
    for start in range(0, len(inputs), rows):
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinity
            taken = inputs[start : start + rows].astype(np.float32, copy=False)
        if not np.isfinite(taken).all():
            raise DatasetError(
                f"the {name} inputs hold NaN, infinity or numbers beyond those of float32 "
                "(3.4e38): remove those examples"
            )


def load_dataset(path: Path, limits: DataLimits = LIMITS) -> Dataset:
    """Read a dataset whole, within the limits.

    Raises:
        DatasetError: and its kinds, see `search.evaluation.errors`.
    """
    source = _open(path, limits)
    if source.folder is not None:
        inputs = decode(source.folder, limits)
    else:
        inputs = {split: lazy.read() for split, lazy in source.inputs.items()}
    for split, values in inputs.items():
        if values.dtype.kind == "f":
            _finite(_SPLITS[split], values)
    description = _describe(source)
    if source.train.dtype.kind in "ui" and source.folder is None:
        low = min(int(values.min()) for values in inputs.values())
        high = max(int(values.max()) for values in inputs.values())
        description = description.model_copy(update={"input_range": (low, high)})
    examples: dict[str, Examples] = {}
    for split, values in inputs.items():
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        examples[split] = Examples(native, source.labels.get(split))
    return Dataset(examples["train"], examples.get("test"), description, examples.get("holdout"))
