"""Modules and tensors have any name that `nn.Module` takes; none can act as code."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import espalier
from espalier.format.check import check_path
from espalier.format.codec import graph_from_json, graph_to_json
from espalier.format.errors import FormatError
from espalier.format.lift import lift
from search.export.onnx import export_onnx
from search.graph import space_of
from search.pruning import apply, clone

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """A linear map, a buffer, a parameter and a layer in a container, each called as asked."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        linear, buffer, parameter, container, inner = names
        self.add_module(linear, nn.Linear(4, 6))
        self.register_buffer(buffer, torch.randn(6, generator=generator))
        self.register_parameter(parameter, nn.Parameter(torch.randn(6, generator=generator)))
        self.add_module(container, nn.Module())
        held = self._modules[container]
        assert held is not None
        held.add_module(inner, nn.Linear(6, 5))
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        linear, buffer, parameter, container, inner = self.names
        hidden = self._modules[linear](x) * self._buffers[buffer] + self._parameters[parameter]  # type: ignore[misc]
        result: Tensor = self._modules[container]._modules[inner](hidden)  # type: ignore[union-attr, misc]
        return result


def same(found: nn.Module, network: nn.Module) -> None:
    assert list(found.state_dict()) == list(network.state_dict())
    assert [n for n, _ in found.named_parameters()] == [n for n, _ in network.named_parameters()]
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert torch.equal(found(X), network(X))


def round_trip(network: nn.Module, path: Path) -> nn.Module:
    loaded = espalier.load(espalier.pack(network, X, path))
    for found in (loaded, copy.deepcopy(loaded), copy.copy(loaded), clone(loaded)):
        same(found, network)
    same(pickle.loads(pickle.dumps(loaded)), network)  # noqa: S301
    same(espalier.load(espalier.pack(loaded, X, path)), network)
    return loaded


UNSAFE = "\"'\\."
NAMES = st.text(
    st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters=UNSAFE),
    min_size=1,
    max_size=12,
).filter(lambda name: name[:2] != "__")


@settings(max_examples=8, deadline=None)
@given(names=st.lists(NAMES, min_size=5, max_size=5, unique=True))
def test_any_name(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    round_trip(Named(names), tmp_path_factory.mktemp("names") / "n")


@pytest.mark.parametrize(
    "names",
    [
        ["block1-0", "a b", "a:b", "stage-2", "conv-1"],
        ["a-b", "a_b", "a b", "a:b", "_a_b"],  # alike once they are written as identifiers
        ["ﬁ", "fi", "é", "е", "e"],  # Python reads the first two as one name
        ["class", "None", "lambda", "import", "return"],
        ["1", "01", "007", "0", "²"],
        ["graph", "code", "meta", "recompile", "print_readable"],  # of GraphModule
        ["_graph", "_code", "_paths", "_targets", "_tracer_cls"],
        ["a@1", "a", "[/b]", "<b>&", "%s{x}$y$"],
        ["x", "linear", "add", "mul", "input"],  # names of nodes
        ["_1", "__hidden", "hidden__", "*", "🌲"],
    ],
)
def test_names_that_need_care(names: list[str], tmp_path: Path) -> None:
    network = Named(names)
    loaded = round_trip(network, tmp_path / "n")
    for name, module in network.named_modules():
        assert str(loaded.get_submodule(name)) == str(module) or not isinstance(module, nn.Linear)
    assert torch.equal(loaded.train()(X), network(X))
    loaded(X).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.filterwarnings("ignore:# 'torch.onnx.export':UserWarning")
def test_they_are_cut_and_written_as_onnx(tmp_path: Path) -> None:
    network = Named(["class", "block-1", "ﬁ", "None", "a b"])
    loaded = espalier.load(espalier.pack(network, X, tmp_path / "n"))
    space = space_of(lift(network, X)[0])
    cut = apply(loaded, space, ((0, 2, 3),))
    assert list(cut.state_dict()) == list(network.state_dict())
    assert "class.weight" in {member.tensor for member in space.groups[0].members}
    export_onnx(cut, X, tmp_path / "n.onnx", {})
    again = espalier.load(espalier.pack(cut, X, tmp_path / "cut"))
    assert torch.equal(again(X), cut(X))


# --- what cannot be a name ------------------------------------------------------------------------

HOSTILE = [
    'a",print("x"))#',
    "a'b",
    "a\\",
    "a\nb",
    "a\0",
    "\x1b[31m",
    "\x85",
    "\ud800",
    "",
    "__class__",
    "__deepcopy__",
    "forward",
    "training",
    "n" * 300,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_could_do_harm_are_refused(name: str) -> None:
    for path in (name, f"a.{name}", f"{name}.weight"):
        with pytest.raises(FormatError) as caught:
            check_path(path)
        str(caught.value).encode()


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if not hasattr(nn.Module(), name or "forward")]
)
def test_packed_and_read_they_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"name|path"):
        espalier.pack(Named([name, "b", "c", "d", "e"]), X, tmp_path / "n")
    assert not list(tmp_path.iterdir())
    text = graph_to_json(lift(Named(["here", "b", "c", "d", "e"]), X)[0])
    with pytest.raises(FormatError):
        graph_from_json(text.replace('"here', '"' + json.dumps(name)[1:-1]))
