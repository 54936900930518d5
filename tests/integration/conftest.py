"""One small network and its data, and a service for the tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from numpy.typing import NDArray

import espalier
from benchmarks.digits import save_digits, train
from benchmarks.service import SHORT_LEASES, Service, running
from espalier.format.manifest import Preprocessing


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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def service(data: Path) -> Iterator[Service]:
    os.umask(0o022)  # the usual one, whatever the shell's is
    with running(data, workers=2, settings=SHORT_LEASES) as started:
        yield started
    left = [p for p in psutil.process_iter(["cmdline"]) if str(data) in str(p.info["cmdline"])]
    assert not left, "the service left processes behind"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[espalier.Client]:
    with espalier.Client(service.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def uploads(client: espalier.Client, digits: Digits) -> dict[str, str]:
    return {
        "network": client.upload_network(digits.package)["id"],
        "dataset": client.upload_dataset(digits.data)["id"],
    }
