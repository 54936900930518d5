"""Real data that needs no download, and a small residual network trained on it.

The data are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks import BasicBlock

TEST_EXAMPLES = 397


class DigitsResNet(nn.Module):
    """A residual network of 8 layers for `(n, 1, 8, 8)` images of ten classes.

    Args:
        width: channels of the first layers.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = BasicBlock(width, width, 1, "b")
        self.layer2 = BasicBlock(width, 2 * width, 2, "b")
        self.layer3 = BasicBlock(2 * width, 4 * width, 2, "b")
        self.classifier = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 8, 8)` to `(n, 10)` logits."""
        y = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.classifier(y.mean((2, 3)))  # type: ignore[no-any-return]  # nn.Module.__call__


def save_digits(path: Path) -> dict[str, NDArray[Any]]:
    """Write the digits as `.npz`, split into training and test images; return the arrays."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], bunch.target[order].astype(np.int64)
    arrays = {
        "train_images": images[TEST_EXAMPLES:],
        "train_labels": labels[TEST_EXAMPLES:],
        "test_images": images[:TEST_EXAMPLES],
        "test_labels": labels[:TEST_EXAMPLES],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, **arrays)
    return arrays


def train(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int = 25,
    seed: int = 0,
    width: int = 16,
) -> DigitsResNet:
    """Train on `(n, 8, 8)` images with SGD on a one-cycle schedule; the result is in eval mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitsResNet(width)
    inputs = torch.from_numpy(images).float().unsqueeze(1) / 255
    targets = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    batch = 64
    steps = -(-len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, epochs=epochs, steps_per_epoch=steps
    )
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(inputs), generator=generator), batch):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(inputs[index]), targets[index]))
            optimizer.step()
            schedule.step()
    return network.eval()
