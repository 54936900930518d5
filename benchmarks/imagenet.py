"""A thousand ImageNet images, one a class, for the MobileNets.

The folder of `benchmarks.cifar` also holds `imagenet1000_256.npz`: JPEG images of 256 x 256 pixels,
from ImageNet's *training* set. Networks know them: drops between accuracies on them mean something,
the accuracies themselves do not.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.cifar import folder
from espalier.format.manifest import Preprocessing

PREPROCESSING = Preprocessing(scale=1 / 128, mean=(1.0,))  # (raw - 128) / 128
_WHOLE, _CENTRE = (0, 0, 256, 256), (16, 16, 240, 240)


def example(pixels: int) -> torch.Tensor:
    """An input of a network for images of so many pixels a side."""
    return torch.zeros(1, 3, pixels, pixels)


def _view(image: Image.Image, box: tuple[int, int, int, int], pixels: int) -> NDArray[np.uint8]:
    part = image.crop(box).resize((pixels, pixels), Image.Resampling.BILINEAR)
    return np.asarray(part, np.uint8)


def dataset(pixels: int, *, holdout: int, test: int, seed: int) -> dict[str, NDArray[Any]]:
    """Arrays for a job, `(n, pixels, pixels, 3)`: disjoint images for training, hold-out and test.

    Hold-out and test are centre crops. With so few images, the training part (only calibration
    reads it here) has four views of each of its own: whole and centre, plain and mirrored.
    """
    with np.load(folder() / "imagenet1000_256.npz", allow_pickle=False) as data:
        jpeg, offsets, labels = data["jpeg"], data["offsets"], data["labels"].astype(np.int64)
    images = [
        Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB")
        for start, end in pairwise(offsets.tolist())
    ]
    order = np.random.default_rng(seed).permutation(len(images))
    parts = {"holdout": order[:holdout], "test": order[holdout : holdout + test]}
    train = order[holdout + test :]
    views = [_view(images[i], box, pixels) for i in train for box in (_WHOLE, _CENTRE)]
    arrays = {
        "train_images": np.stack([*views, *(view[:, ::-1] for view in views)]),
        "train_labels": np.tile(np.repeat(labels[train], 2), 2),
    }
    for name, indices in parts.items():
        arrays[f"{name}_images"] = np.stack([_view(images[i], _CENTRE, pixels) for i in indices])
        arrays[f"{name}_labels"] = labels[indices]
    return arrays
