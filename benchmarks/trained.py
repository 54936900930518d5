"""A small vision transformer and a small VGG, trained here on Fashion-MNIST; kept as packages.

    python -m benchmarks.trained [--folder var/benchmarks/trained]

Training images 50,000 to 59,999 and the 10,000 test images are unseen. Deterministic on one machine
with one thread; about five minutes each on an idle core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import espalier
from benchmarks.cifar import folder as data_folder
from espalier.format.manifest import Preprocessing
from search.evaluation.augment import augment

FOLDER = Path("var/benchmarks/trained")
PREPROCESSING = Preprocessing(scale=1 / 255, mean=(0.286,), std=(0.353,))
EXAMPLE = torch.zeros(1, 1, 28, 28)
UNSEEN = 50_000  # training images before this one only were trained on
_BATCH = 128
Arrays = dict[str, NDArray[Any]]


class Attention(nn.Module):
    """Several heads; queries, keys and values from one linear map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, tokens, width)` to the same."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        z: Tensor = self.proj(y)
        return z


class Encoder(nn.Module):
    """Attention and two linear maps, each behind a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        z: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return z


class Vit(nn.Module):
    """Vision transformer. Source: Dosovitskiy et al. 2021, arXiv:2010.11929, equations 1 to 4."""

    def __init__(
        self, width: int = 64, blocks: int = 4, heads: int = 4, *, patch: int = 4, pixels: int = 28
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = (pixels // patch) ** 2 + 1
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.layers = nn.Sequential(*(Encoder(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, 28, 28)` to `(n, 10)` logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        y: Tensor = self.head(self.norm(self.layers(x))[:, 0])
        return y


def vgg(widths: tuple[int, ...] = (16, 32, 64), hidden: int = 128) -> nn.Sequential:
    """Two 3x3 convolutions with batch-norm a stage, halved behind each; two linear maps.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556; batch-norm as in torchvision's `vgg_bn`.
    """
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        for c_in in (channels, width):
            layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels = width
    layers += [nn.Flatten(), nn.Linear(channels * 3 * 3, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, 10))


@dataclass(frozen=True)
class Recipe:
    """How a network comes to be.

    Attributes:
        make: with the weights it starts from.
        optimizer: over its parameters.
        rate: the highest of a one-cycle schedule.
    """

    make: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: float
    epochs: int


RECIPES = {
    "fashion_vit": Recipe(
        Vit, lambda n: torch.optim.AdamW(n.parameters(), 2e-3, weight_decay=0.05), 2e-3, epochs=4
    ),
    "fashion_vgg": Recipe(
        vgg,
        lambda n: torch.optim.SGD(n.parameters(), 0.1, momentum=0.9, weight_decay=5e-4),
        0.1,
        epochs=4,
    ),
}


def fashion() -> Arrays:
    """`train_images` `(60000, 28, 28)`, `test_images` `(10000, 28, 28)`, and their labels."""
    with np.load(data_folder() / "fashion_mnist.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    return {
        name: array.astype(np.int64) if name.endswith("labels") else array
        for name, array in arrays.items()
    }


def dataset(examples: int, seed: int, *, holdout: int = 0) -> Arrays:
    """Arrays for a job: training images that were trained on, and others that were not.

    Args:
        examples: training images, drawn with `seed`.
        holdout: unseen images of a hold-out of its own; 0 for none.
    """
    data = fashion()
    order = np.random.default_rng(seed).permutation(UNSEEN)
    parts = {"train": np.sort(order[:examples]), "holdout": np.arange(UNSEEN, UNSEEN + holdout)}
    arrays = {name: data[name] for name in ("test_images", "test_labels")}
    for name, indices in parts.items():
        if len(indices):
            arrays[f"{name}_images"] = data["train_images"][indices]
            arrays[f"{name}_labels"] = data["train_labels"][indices]
    return arrays


def train(recipe: Recipe, *, seed: int = 0) -> nn.Module:
    """A network in eval mode, trained on the first 50,000 images, shifted and mirrored."""
    data = fashion()
    (mean,), (std,) = PREPROCESSING.mean, PREPROCESSING.std
    pixels = torch.from_numpy(data["train_images"][:UNSEEN, None])
    labels = torch.from_numpy(data["train_labels"][:UNSEEN])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = recipe.make()
    optimizer = recipe.optimizer(network)
    steps = UNSEEN // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    network.train()
    for epoch in range(recipe.epochs):
        total = 0.0
        order = torch.randperm(UNSEEN, generator=generator)
        for part in torch.split(order, _BATCH)[:steps]:
            inputs = (pixels[part].float() * PREPROCESSING.scale - mean) / std
            loss = F.cross_entropy(network(augment(inputs, "crop_flip", generator)), labels[part])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1} of {recipe.epochs}: loss {total / steps:.3f}", flush=True)
    return network.eval()


def package(name: str, folder: Path = FOLDER) -> Path:
    """The package of a trained network, trained now if it is not there yet.

    Args:
        name: one of `RECIPES`.
    """
    path = folder / f"{name}.espalier"
    if not path.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        print(f"training {name}", flush=True)
        network = train(RECIPES[name])
        torch.set_num_threads(threads)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.partial"
        espalier.pack(network, EXAMPLE, partial, name=name, preprocessing=PREPROCESSING)
        partial.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in RECIPES:
        print(package(name, options.folder))


if __name__ == "__main__":
    main()
