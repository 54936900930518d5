"""CIFAR-10 and networks trained on it, from the folder that `ESPALIER_BENCHMARK_DATA` names.

The folder holds `cifar10_train.npz` (lossless WebP sheets of 32 x 32 tiles), `cifar10_test1000.npz`
(the first 1,000 test images) and `nets/*.safetensors`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks import networks
from espalier.format.manifest import Preprocessing

SHEET = 1024  # tiles on a sheet, 32 rows of 32
PREPROCESSING = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NETWORKS = ("cifar10_resnet20a", "cifar10_resnet20a_holdout", "cifar10_resnet56a")
UNSEEN = 40_000  # `resnet20a_holdout` was trained on the images before this one only


def folder() -> Path:
    """The benchmark data.

    Raises:
        SystemExit: `ESPALIER_BENCHMARK_DATA` does not name a folder.
    """
    path = Path(os.environ.get("ESPALIER_BENCHMARK_DATA", ""))
    if not (path / "cifar10_train.npz").exists():
        raise SystemExit("set ESPALIER_BENCHMARK_DATA to the folder with cifar10_train.npz")
    return path


def train_images(indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Training images `(n, 32, 32, 3)` and labels `(n,)` by their official index."""
    with np.load(folder() / "cifar10_train.npz", allow_pickle=False) as data:
        webp, offsets, labels = data["webp"], data["offsets"], data["labels"]
    sheets: dict[int, NDArray[np.uint8]] = {}
    for sheet in sorted({int(index) // SHEET for index in indices}):
        raw = webp[offsets[sheet] : offsets[sheet + 1]].tobytes()
        pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        tiles = pixels.reshape(32, 32, 32, 32, 3).transpose(0, 2, 1, 3, 4)
        sheets[sheet] = tiles.reshape(SHEET, 32, 32, 3)
    images = np.stack([sheets[int(i) // SHEET][int(i) % SHEET] for i in indices])
    return images, labels[indices].astype(np.int64)


def dataset(network: str, examples: int, seed: int, *, holdout: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays for a job: `examples` training images, and test images that the network never saw.

    `resnet20a_holdout` is tested on training images 40,000 to 49,999, which it has not seen; the
    other networks have seen all of those and are tested on the 1,000 lossless test images.

    Args:
        holdout: images of a hold-out of its own; 0 leaves it to the job to draw one from the
            training images. For `resnet20a_holdout` the first ones from 40,000 on, unseen too and
            not in the test; for the others further training images, which they have seen.
    """
    of_its_own = network.endswith("holdout")
    order = np.random.default_rng(seed).permutation(UNSEEN if of_its_own else 50_000)
    unseen = np.arange(UNSEEN, 50_000)
    parts = {"train": order[:examples], "holdout": order[examples:][:holdout]}
    if of_its_own:
        parts |= {"holdout": unseen[:holdout], "test": unseen[holdout:]}
    arrays: dict[str, NDArray[Any]] = {}
    for name, indices in parts.items():
        if len(indices):
            images, labels = train_images(np.sort(indices))
            arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    if "test" not in parts:
        with np.load(folder() / "cifar10_test1000.npz", allow_pickle=False) as data:
            arrays["test_images"] = data["test_images"]
            arrays["test_labels"] = data["test_labels"].astype(np.int64)
    return arrays


def trained(network: str) -> nn.Module:
    """A trained network by the name of its file, in eval mode, for `(n, 3, 32, 32)` inputs."""
    return networks.published(network, folder())


EXAMPLE = torch.zeros(1, 3, 32, 32)
