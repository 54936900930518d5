"""One small network and its data, shared by the tests of whole services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

import espalier
from benchmarks.digits import save_digits, train
from espalier.format.package import Preprocessing


@dataclass(frozen=True, slots=True)
class Digits:
    """A trained network's package, the data's file, and the data."""

    package: Path
    data: Path
    arrays: dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder = tmp_path_factory.mktemp("digits")
    arrays = save_digits(folder / "digits.npz")
    network = train(arrays["train_images"], arrays["train_labels"], epochs=3)
    package = espalier.pack(
        network,
        torch.zeros(1, 1, 8, 8),
        folder / "digits.espalier",
        preprocessing=Preprocessing(scale=1 / 255),
    )
    return Digits(package, folder / "digits.npz", arrays)
