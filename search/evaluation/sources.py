"""The files that hold a dataset: which of their arrays or images mean what. Imports no torch.

Three kinds of files are read, told apart by their first bytes:

- `.npz` without pickles, and safetensors, with arrays named `train_images`, `train_inputs`,
  `images`, `inputs`, `x` or `x_train`; labels `train_labels`, `labels`, `y` or `y_train`; a test
  split as `test_images`, `test_inputs` or `x_test` with `test_labels` or `y_test`; a hold-out as
  `holdout_images`, `holdout_inputs`, `val_images`, `val_inputs` or `x_val` with `holdout_labels`,
  `val_labels` or `y_val`; names of the classes as `class_names` or `classes` (in safetensors: the
  metadata field `classes`, JSON);
- folders of images in a zip or tar file, see `search.evaluation.images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from search.evaluation.arrays import Array, Lazy, is_npz, npz_arrays, safetensors_arrays
from search.evaluation.class_names import class_names
from search.evaluation.errors import DatasetError, DatasetTooLarge, LabelsInvalid
from search.evaluation.images import ImageFolder, scan
from search.evaluation.limits import DataLimits
from search.evaluation.unpacking import COMPRESSED

_KEYS: Mapping[str, tuple[str, ...]] = {
    "train": ("train_images", "train_inputs", "images", "inputs", "x", "x_train"),
    "train labels": ("train_labels", "labels", "y", "y_train"),
    "holdout": ("holdout_images", "holdout_inputs", "val_images", "val_inputs", "x_val"),
    "holdout labels": ("holdout_labels", "val_labels", "y_val"),
    "test": ("test_images", "test_inputs", "x_test"),
    "test labels": ("test_labels", "y_test"),
    "classes": ("class_names", "classes"),
}
SPLITS: Mapping[str, str] = {"train": "training", "holdout": "hold-out", "test": "test"}


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's file: headers and names are known, numbers are not read yet."""

    inputs: Mapping[str, Lazy]
    labels: Mapping[str, Lazy]
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
    if head[257:262] == b"ustar" or head.startswith(COMPRESSED):
        return "tar"
    if head[8:9] == b"{":
        return "safetensors"
    raise DatasetError(
        "the file is no dataset that is read: use .npz, safetensors, or a zip or tar file of images"
    )


def _labels(lazy: Lazy, examples: int) -> Lazy:
    """One label an example, by the header."""
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
    return replace(lazy, shape=shape)


def _from_arrays(arrays: dict[str, Lazy], classes: tuple[str, ...], limits: DataLimits) -> Source:
    known = {name for names in _KEYS.values() for name in names}
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise DatasetError(
            f"array {unknown[0][:200]!r} has no known meaning; known are {', '.join(sorted(known))}"
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
    inputs = {split: found[split] for split in SPLITS if split in found}
    for lazy in inputs.values():
        if not lazy.shape or lazy.dtype.kind not in "buif":
            raise DatasetError(f"array {lazy.name!r} of {lazy.dtype} and {lazy.shape} is no input")
    labels: dict[str, Lazy] = {}
    for split, words in SPLITS.items():
        if f"{split} labels" not in found:
            continue
        if split not in inputs:
            raise DatasetError(f"there are {words} labels but no {words} inputs")
        labels[split] = _labels(found[f"{split} labels"], inputs[split].shape[0])
    if "classes" in found:
        classes = _class_names(found["classes"], limits)
    return Source(inputs, labels, classes, "arrays")


def _class_names(lazy: Lazy, limits: DataLimits) -> tuple[str, ...]:
    if lazy.dtype.kind not in "US" or len(lazy.shape) != 1:
        raise DatasetError(f"array {lazy.name!r} must be a list of names")
    widest = 4 * limits.max_name  # bytes of a name, in UTF-8 or as numpy stores text
    if lazy.dtype.itemsize > widest:
        raise DatasetTooLarge(
            f"array {lazy.name!r} has names of {lazy.dtype.itemsize} bytes, above the limit of "
            f"{widest}: shorten them to {limits.max_name} characters"
        )
    # numpy makes strings of any number without a look: its bytes are decoded here.
    width = lazy.dtype.itemsize
    pieces = (piece.tobytes() for piece in lazy.pieces())
    names = (data[at : at + width] for data in pieces for at in range(0, len(data), width))
    encoding = "utf-8"
    if lazy.dtype.kind == "U":
        encoding = "utf-32-be" if lazy.dtype.byteorder == ">" else "utf-32-le"
    return class_names(names, f"array {lazy.name!r}", limits, encoding)


def _from_images(path: Path, kind: str, limits: DataLimits) -> Source:
    folder = scan(path, kind, limits)

    def lazy(split: str) -> Lazy:
        def unread() -> Iterator[Array]:
            raise AssertionError("images are decoded together")

        shape = (len(folder.names[split]), *folder.example_shape)
        return Lazy(split, shape, np.dtype(np.uint8), unread)

    inputs = {split: lazy(split) for split in SPLITS if split in folder.names}
    labels = {split: Lazy.of(split, values) for split, values in (folder.labels or {}).items()}
    classes = class_names(folder.classes, "the archive's folders", limits)
    return Source(inputs, labels, classes, "images", folder)


def open_source(path: Path, limits: DataLimits) -> Source:
    kind = _file_kind(path)
    if kind == "safetensors":
        source = _from_arrays(*safetensors_arrays(path, limits), limits)
    elif kind == "zip" and is_npz(path, limits):
        source = _from_arrays(npz_arrays(path, limits), (), limits)
    else:
        source = _from_images(path, kind, limits)
    _check_headers(source)
    taken = sum(lazy.nbytes for lazy in source.inputs.values())
    taken += sum(8 * lazy.shape[0] for lazy in source.labels.values())  # as int64
    limits.check_unpacked(path, taken, "inputs and labels take")
    return source


def _check_headers(source: Source) -> None:
    train = source.train
    for split, lazy in source.inputs.items():
        words = SPLITS[split]
        if 0 in lazy.shape:
            raise DatasetError(f"the {words} inputs have shape {lazy.shape}: there are no examples")
        if (lazy.shape[1:], lazy.dtype) != (train.shape[1:], train.dtype):
            raise DatasetError(
                f"{words} examples are {lazy.shape[1:]} of {lazy.dtype}, training examples "
                f"{train.shape[1:]} of {train.dtype}: store both alike"
            )
        if ("train" in source.labels) != (split in source.labels):
            raise LabelsInvalid(f"label both the training and the {words} examples, or neither")
