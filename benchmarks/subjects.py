"""The networks that the search methods are compared on, each with data, evaluations and schedule.

What scores the trials, what trains and what tests never share an image. Whether the network itself
was trained on the hold-out is said in `Subject.holdout_is`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import espalier
from benchmarks import cifar, imagenet, networks, trained
from espalier.format.manifest import Preprocessing
from search.spec import Metric

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Subject:
    """One network.

    Attributes:
        evaluations: that every method gets, unless asked otherwise.
        metric: that scores the trials, unless asked otherwise.
        epochs: of the fine-tuning that every winner gets; 0 where there are too few images.
        augment: of the fine-tuning.
        holdout_is: what scores the trials, in words.
        test_is: what the finished networks are measured on, once, in words.
        data: makes the arrays of the dataset, always the same.
        trained: whether the network is one of `benchmarks.trained`, not a published one.
    """

    name: str
    evaluations: int
    metric: Metric
    epochs: int
    augment: str
    example: Tensor
    preprocessing: Preprocessing
    holdout_is: str
    test_is: str
    data: Callable[[], Arrays]
    trained: bool = False

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The package and the dataset as files in a folder, made if they are not there yet."""
        folder.mkdir(parents=True, exist_ok=True)
        package, data = folder / f"{self.name}.espalier", folder / f"{self.name}.npz"
        if not data.exists():
            partial = folder / f"{self.name}.partial.npz"
            np.savez(partial, allow_pickle=False, **self.data())
            partial.replace(data)
        if self.trained:
            package = trained.package(self.name)
        elif not package.exists():
            espalier.pack(
                networks.published(self.name, cifar.folder()),
                self.example,
                package,
                name=self.name,
                preprocessing=self.preprocessing,
            )
        return package, data


def _cifar(name: str, evaluations: int, holdout_is: str, test_is: str) -> Subject:
    def data() -> Arrays:
        return cifar.dataset(name, 8_000, 0, holdout=2_000)

    return Subject(
        name,
        evaluations,
        metric="top1",
        epochs=1,
        augment="crop_flip",
        example=cifar.EXAMPLE,
        preprocessing=cifar.PREPROCESSING,
        holdout_is=holdout_is,
        test_is=test_is,
        data=data,
    )


def _imagenet(name: str, evaluations: int, pixels: int) -> Subject:
    def data() -> Arrays:
        return imagenet.dataset(pixels, holdout=300, test=350, seed=0)

    return Subject(
        name,
        evaluations,
        metric="cross_entropy",  # of a thousand classes, cut networks get none of 300 images right
        epochs=0,
        augment="none",
        example=imagenet.example(pixels),
        preprocessing=imagenet.PREPROCESSING,
        holdout_is="300 images of ImageNet's training set",
        test_is="350 other images of ImageNet's training set",
        data=data,
    )


def _fashion(name: str) -> Subject:
    def data() -> Arrays:
        return trained.dataset(8_000, 0, holdout=2_000)

    return Subject(
        name,
        evaluations=130,
        metric="top1",
        epochs=0,
        augment="none",
        example=trained.EXAMPLE,
        preprocessing=trained.PREPROCESSING,
        holdout_is="1,000 images that the network was never trained on",
        test_is="the 10,000 test images of Fashion-MNIST",
        data=data,
        trained=True,
    )


_SEEN = "1,000 training images (drawn anew for each seed) that the network was trained on"
_TEST = "1,000 lossless test images, unseen"

SUBJECTS = {
    subject.name: subject
    for subject in (
        _cifar(
            "cifar10_resnet20a_holdout",
            130,
            "1,000 images (drawn anew for each seed) that the network was never trained on",
            "8,000 other images that it was never trained on",
        ),
        _cifar("cifar10_resnet20a", 130, _SEEN, _TEST),
        _cifar("cifar10_resnet56a", 300, _SEEN, _TEST),
        _imagenet("imagenet_mobilenet_v1_0.25_128", 130, 128),
        _imagenet("imagenet_mobilenet_v1_0.5_160", 130, 160),
        _imagenet("imagenet_mobilenet_v2_1.0_224", 60, 224),
        _fashion("fashion_vit"),
        _fashion("fashion_vgg"),
    )
}
