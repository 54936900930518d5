"""A name for each of the classes, or none: told where the network is packed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from espalier.format.errors import FormatError, LimitExceeded
from espalier.format.lift import pack
from espalier.format.package import read_package
from search.description import describe_network


@pytest.mark.parametrize("count", [1, 2, 4])
def test_names_for_fewer_or_more_classes_are_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "net.espalier"
    with pytest.raises(FormatError, match=f"{count} classes are named.* 3 scores.*a name for each"):
        pack(nn.Linear(4, 3), torch.zeros(1, 4), path, classes=["c"] * count)
    assert not path.exists()


def test_names_are_compared_again_where_a_package_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an earlier version, or another hand."""
    path = tmp_path / "net.espalier"
    monkeypatch.setattr("espalier.format.lift.check_classes", lambda *_: None)
    pack(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4), path, classes=["a", "b"])
    with pytest.raises(FormatError, match="2 classes are named"):
        describe_network(path)


def test_long_names_of_many_classes_are_refused(tmp_path: Path) -> None:
    """A description shows them all, and a list shows many descriptions."""
    names = ["n" * 200] * 6000
    with pytest.raises(LimitExceeded, match="1200000 bytes"):
        pack(nn.Linear(1, len(names)), torch.zeros(1, 1), tmp_path / "net", classes=names)


class Heads(nn.Module):
    """Two outputs."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


@pytest.mark.parametrize("network", [nn.Linear(4, 3), nn.Sequential(nn.Conv1d(4, 5, 1)), Heads()])
def test_names_are_compared_with_a_row_of_scores_only(tmp_path: Path, network: nn.Module) -> None:
    example = torch.zeros(1, 4) if isinstance(network, nn.Linear) else torch.zeros(1, 4, 4)
    path = pack(network, example, tmp_path / "net.espalier", classes=["a", "b", "c"])
    assert read_package(path).manifest.classes == ("a", "b", "c")
