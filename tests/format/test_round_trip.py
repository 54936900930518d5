"""A loaded network is the original: same bits, same names, trainable, switchable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import espalier
from espalier.format import package
from espalier.format.build import graph_of
from espalier.format.manifest import Preprocessing
from tests.networks import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_same_bits_names_and_gradients(name: str, tmp_path: Path) -> None:
    network, example = ZOO[name]()
    before = copy.deepcopy(network.state_dict())
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))

    generator = torch.Generator().manual_seed(3)
    for batch in (1, 2, 5):
        x = torch.randn(batch, *example.shape[1:], generator=generator)
        assert torch.equal(network(x), loaded(x))
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    assert not loaded.training
    loaded.train()
    loaded(example).square().sum().backward()
    without = [n for n, p in loaded.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert {n for n, _ in network.named_parameters()} == {n for n, _ in loaded.named_parameters()}
    for key, value in network.state_dict().items():  # packing only reads
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["resnet20a", "mlp", "vit_multihead"])
def test_train_mode_is_the_originals(name: str, tmp_path: Path) -> None:
    """Dropout draws and batch statistics agree, in value and in what they leave behind."""
    network, example = ZOO[name]()
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))
    outputs = []
    for each in (network, loaded):
        each.train()
        torch.manual_seed(5)
        outputs.append(each(example))
        each.eval()
    assert torch.equal(*outputs)
    assert all(
        torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items()
    )
    assert torch.equal(network(example), loaded(example))


def test_a_loaded_network_packs_again(tmp_path: Path) -> None:
    """Also after tuning; the same network gives the same bytes."""
    network, example = ZOO["vit_fused"]()
    first = espalier.pack(network, example, tmp_path / "a.espalier", name="v")
    loaded = espalier.load(first)
    assert espalier.pack(loaded, example, tmp_path / "b", name="v").read_bytes() == (
        first.read_bytes()
    )
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.mul_(1.5)
    again = espalier.load(espalier.pack(copy.deepcopy(loaded), example, tmp_path / "c.espalier"))
    assert graph_of(again) == graph_of(loaded)
    assert torch.equal(again(example), loaded(example))
    assert not torch.equal(again(example), network(example))


def test_the_users_modes_are_put_back(tmp_path: Path) -> None:
    network, example = ZOO["mlp"]()
    network.train()
    network.get_submodule("2").eval()
    next(network.parameters()).requires_grad_(False)
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))
    assert [m.training for m in network.modules()][1:4] == [True, True, False]
    assert [p.requires_grad for p in network.parameters()][:2] == [False, True]
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]


def test_dropout_keeps_its_path_and_obeys_the_mode(tmp_path: Path) -> None:
    network, example = ZOO["mlp"]()
    loaded = espalier.load(espalier.pack(network, example, tmp_path / "n.espalier"))
    dropout = loaded.get_submodule("4")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.3
    assert torch.equal(loaded(example), loaded(example))
    loaded.train()
    assert not torch.equal(loaded(example), loaded(example))


def test_constructor_arguments_come_back(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, (3, 1), (2, 1), (1, 0), dilation=(1, 2), bias=False),
        nn.BatchNorm2d(4, eps=1e-3, momentum=None),
        nn.BatchNorm2d(4, affine=False, momentum=0.3),
        nn.GroupNorm(2, 4, affine=False),
        nn.InstanceNorm2d(4),
    )
    loaded = espalier.load(espalier.pack(network, torch.randn(2, 3, 8, 8), tmp_path / "n"))
    assert [str(loaded.get_submodule(str(i))) for i in range(5)] == [
        str(network[i]) for i in range(5)
    ]


def test_manifest_holds_what_was_given(tmp_path: Path) -> None:
    network, example = ZOO["mlp"]()
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    path = espalier.pack(
        network,
        example,
        tmp_path / "n.espalier",
        preprocessing=preprocessing,
        classes=["a", "b", "c", "d"],
        name="digits",
        extra={"kept": [1, 2]},
    )
    manifest = espalier.load(path).meta["manifest"]
    assert manifest.preprocessing == preprocessing
    assert manifest.classes == ("a", "b", "c", "d")
    assert (manifest.name, manifest.extra) == ("digits", {"kept": [1, 2]})
    assert [(spec.shape, spec.dtype) for spec in manifest.inputs] == [((3, 4, 4), "float32")]


def test_packages_hold_no_paths_traces_or_foreign_storage(tmp_path: Path) -> None:
    """A parameter that is a slice of a large tensor brings nothing else along."""

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(100_000, 4)[:3])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight)

    example = torch.randn(100_000, 4)[:2]
    path = espalier.pack(Sliced(), example, tmp_path / "n.espalier")
    data = path.read_bytes()
    assert len(data) < 3_000
    folder = str(Path(__file__).parent).encode()
    for leak in (folder, b".py", b"File ", b"site-packages", b"stack_trace", b"/home", b"line "):
        assert leak not in data


def test_the_file_that_was_checked_is_the_file_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package put in its place between the two is not read."""
    network, example = ZOO["mlp"]()
    path = espalier.pack(network, example, tmp_path / "n.espalier")
    other = espalier.pack(ZOO["mlp"]()[0].apply(_zeroed), example, tmp_path / "other.espalier")
    checked = package._checked

    def swapped(*arguments: Any) -> package.Package:
        found = checked(*arguments)
        other.replace(path)
        return found

    monkeypatch.setattr(package, "_checked", swapped)
    assert torch.equal(espalier.load(path)(example), network(example))


def _zeroed(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.zero_()
