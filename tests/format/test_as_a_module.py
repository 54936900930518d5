"""What `load` gives is a module like others: copied, saved, exported and compiled, cut or not."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import espalier
from espalier.format.build import as_built, graph_of
from espalier.format.errors import FormatError
from espalier.format.lift import PackingWarning, lift
from espalier.format.package import read_package
from search.export.onnx import export_onnx
from search.graph import space_of
from search.pruning import apply, clone


class Various(nn.Module):
    """Modules out of the order of their calls, constants, frozen parts, buffers, dropout."""

    table: Tensor
    passing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.register_buffer("table", torch.rand(4, 1, 1))
        self.aside = nn.Module()
        self.aside.register_parameter("shift", nn.Parameter(torch.rand(4, 1, 1), False))
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("passing", torch.rand(3), persistent=False)
        self.conv = nn.Conv2d(3, 4, 3)
        for parameter in self.conv.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)) * self.scale * self.table + self.aside.shift
        x = nn.functional.dropout(x.relu(), 0.25, self.training).mean(-1).flatten(1)
        return torch.add(self.head(self.drop(x)) * self.passing, torch.arange(3.0))


X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def various() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Various().eval()


@pytest.fixture(scope="module", params=["whole", "cut"])
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> fx.GraphModule:
    path = espalier.pack(various(), X, tmp_path_factory.mktemp("various") / "n")
    loaded: fx.GraphModule = espalier.load(path)
    if request.param != "whole":
        space = space_of(graph_of(loaded))
        kept = tuple(tuple(range(1, group.channels)) for group in space.groups)
        assert kept
        loaded = apply(loaded, space, kept)
    return loaded


def _saved(network: nn.Module, path: Path) -> nn.Module:
    torch.save(network, path / "n.pt")
    found: nn.Module = torch.load(path / "n.pt", weights_only=False)
    return found


WAYS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "torch.save": _saved,
    "pickle": lambda network, _: pickle.loads(pickle.dumps(network)),  # noqa: S301
    "deepcopy": lambda network, _: copy.deepcopy(network),
    "pack": lambda network, path: espalier.load(espalier.pack(network, X, path / "again")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_equal_and_apart(way: str, network: fx.GraphModule, tmp_path: Path) -> None:
    found = WAYS[way](network, tmp_path)
    assert isinstance(found, fx.GraphModule)
    assert torch.equal(found(X), network(X))
    assert list(found.state_dict()) == list(network.state_dict())
    assert [(n, p.requires_grad) for n, p in found.named_parameters()] == [
        (n, p.requires_grad) for n, p in network.named_parameters()
    ]
    assert graph_of(found) == graph_of(network)
    assert found.meta["manifest"].model_dump(exclude={"digests", "name"}) == network.meta[
        "manifest"
    ].model_dump(exclude={"digests", "name"})
    assert found.code == network.code
    assert [node.name for node in found.graph.nodes] == [node.name for node in network.graph.nodes]
    before = network(X)
    with torch.no_grad():
        next(found.parameters()).zero_()
    assert torch.equal(network(X), before)
    outputs = []
    for each in (found, WAYS[way](network, tmp_path)):  # they switch between the modes
        torch.manual_seed(3)
        outputs.append(each.train()(X))
    assert not torch.equal(outputs[1], before)
    space = space_of(graph_of(found))  # and can be cut
    kept = tuple(tuple(range(group.channels - 1)) for group in space.groups)
    apply(found.eval(), space, kept)(X)


def test_modes_and_edits_come_along(network: fx.GraphModule) -> None:
    changed = copy.deepcopy(network)
    changed.train()
    changed.get_submodule("norm").eval()
    head = changed.get_submodule("head")
    assert isinstance(head, nn.Linear)
    changed.head = nn.Linear(head.in_features, 3, bias=False)
    (output,) = (node for node in changed.graph.nodes if node.op == "output")
    with changed.graph.inserting_before(output):
        output.replace_input_with(
            output.args[0], changed.graph.call_function(torch.neg, (output.args[0],))
        )
    changed.recompile()
    for found in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):  # noqa: S301
        modes = {n: m.training for n, m in changed.named_modules() if n}
        assert {n: found.get_submodule(n).training for n in modes} == modes
        assert torch.equal(found.eval()(X), copy.deepcopy(changed).eval()(X))
        assert torch.equal(found(X), -copy.deepcopy(_positive(found))(X))


def _positive(network: nn.Module) -> nn.Module:
    """Without the sign that the edit put in."""

    class Negated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = -network(x)
            return result

    return Negated()


def test_what_was_changed_is_packed_as_it_is_now(network: fx.GraphModule, tmp_path: Path) -> None:
    """Another layer with tensors of the same shapes, or other code, is not lost."""
    layer = copy.deepcopy(network)
    conv = layer.get_submodule("conv")
    assert isinstance(conv, nn.Conv2d)
    layer.norm = nn.BatchNorm2d(conv.out_channels, eps=0.5)
    code = copy.deepcopy(network)
    for node in code.graph.nodes:
        if node.target is torch.nn.functional.relu:
            node.target = torch.nn.functional.gelu
    code.recompile()
    assert as_built(network)
    for changed in (layer, code):
        assert not as_built(changed)
        found = espalier.load(espalier.pack(changed.eval(), X, tmp_path / "n"))
        assert torch.equal(found(X), changed(X))
        assert not torch.equal(found(X), network(X))


def _hooked(network: fx.GraphModule) -> None:
    network.get_submodule("norm").register_forward_hook(lambda _, __, output: 2 * output)


def _redirected(network: fx.GraphModule) -> None:
    conv = network.get_submodule("conv")
    forward = conv.forward
    conv.forward = lambda x: forward(3 * x)


def _dropping_more(network: fx.GraphModule) -> None:
    drops = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    (functional,) = (drop for drop in drops if drop is not network.get_submodule("drop"))
    functional.p = 0.75


@pytest.mark.parametrize(
    "change", [_hooked, _redirected, _dropping_more, lambda network: network.double()]
)
def test_no_change_is_lost_when_it_is_packed_again(
    change: Callable[[fx.GraphModule], Any], network: fx.GraphModule, tmp_path: Path
) -> None:
    changed = copy.deepcopy(network)
    change(changed)
    assert not as_built(changed)
    x = X.to(next(changed.parameters()).dtype)
    found = espalier.load(espalier.pack(changed.eval(), x, tmp_path / "n"))
    assert torch.equal(found(x), changed(x))
    torch.manual_seed(0)
    wanted = changed.train()(x)
    torch.manual_seed(0)
    assert torch.equal(found.train()(x), wanted)


def test_what_cannot_be_traced_of_a_change_is_refused(
    network: fx.GraphModule, tmp_path: Path
) -> None:
    """Export looks at the forward, not at the hooks around it."""
    changed = copy.deepcopy(network)
    changed.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    with pytest.raises(FormatError, match="computes something else"):
        espalier.pack(changed, X, tmp_path / "n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_exported(network: fx.GraphModule) -> None:
    exported = torch.export.export(network, (X,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for batch in (X, X[:2]):
        torch.testing.assert_close(exported.module()(batch), network(batch))
    assert exported.state_dict.keys() >= network.state_dict().keys()


def test_it_is_compiled(network: fx.GraphModule) -> None:
    """Without the backend that needs a C++ compiler, which takes seconds for each network."""
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), network(X))


@pytest.mark.filterwarnings("ignore:# 'torch.onnx.export':UserWarning")
def test_it_is_written_as_onnx(network: fx.GraphModule, tmp_path: Path) -> None:
    assert export_onnx(copy.deepcopy(network), X, tmp_path / "n.onnx", {}).within(1e-5)


# --- what is carried ------------------------------------------------------------------------------


def test_the_order_and_what_is_trained_are_the_originals(network: fx.GraphModule) -> None:
    original = various()
    assert list(network.state_dict()) == list(original.state_dict())
    assert [(n, p.requires_grad) for n, p in network.named_parameters()] == [
        (n, p.requires_grad) for n, p in original.named_parameters()
    ]
    assert {n for n, _ in original.named_buffers()} <= {n for n, _ in network.named_buffers()}
    for copied in (clone(network), copy.deepcopy(network)):
        assert list(copied.state_dict()) == list(original.state_dict())


def test_weights_of_the_original_can_be_put_in(tmp_path: Path) -> None:
    network = espalier.load(espalier.pack(various(), X, tmp_path / "n"))
    other = Various().eval()
    network.load_state_dict(other.state_dict())
    other.passing = various().passing  # type: ignore[assignment]  # not a part of the state
    assert torch.equal(network(X), other(X))


def test_integers_that_are_parameters_stay_parameters(tmp_path: Path) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.index = nn.Parameter(torch.tensor([1, 0, 2]), requires_grad=False)
            self.words = nn.Embedding(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x, self.words(self.index).flatten())

    network = Whole().eval()
    loaded = espalier.load(espalier.pack(network, torch.rand(2, 12), tmp_path / "n"))
    assert [n for n, _ in loaded.named_parameters()] == ["index", "words.weight"]


def test_what_is_frozen_later_is_packed_as_it_is_now(tmp_path: Path) -> None:
    loaded = espalier.load(espalier.pack(various(), X, tmp_path / "a"))
    for parameter in loaded.parameters():
        parameter.requires_grad_(parameter.dim() > 1)
    again = espalier.load(espalier.pack(loaded, X, tmp_path / "b"))
    assert [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in loaded.parameters()
    ]


def test_a_package_says_the_lowest_version_that_can_read_it(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(75, 2))
    first = read_package(espalier.pack(plain, X, tmp_path / "plain"))
    assert first.manifest.format_version == 1
    assert b"notes" not in first.path.read_bytes()
    assert b"frozen" not in first.path.read_bytes()
    assert read_package(espalier.pack(various(), X, tmp_path / "n")).manifest.format_version == 2
    named = nn.Sequential()
    named.add_module("block-1", nn.Linear(5, 2))
    assert read_package(espalier.pack(named, X, tmp_path / "c")).manifest.format_version == 2


# --- squeezing ------------------------------------------------------------------------------------


class Squeezed(nn.Module):
    def __init__(self, squeeze: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        return self.squeeze(x.mean((2, 3), keepdim=True)) * 2


@pytest.mark.parametrize(
    "squeeze",
    [Tensor.squeeze, lambda x: x.squeeze(0), lambda x: x.squeeze((0, 2)), lambda x: x.squeeze_()],
)
def test_a_batch_that_the_original_may_squeeze_is_said(
    squeeze: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    network = Squeezed(squeeze).eval()
    with pytest.warns(PackingWarning, match=r"aten\.squeeze.*single example.*test_as_a_module\.py"):
        path = espalier.pack(network, X, tmp_path / "n")
    loaded = espalier.load(path)
    (note,) = loaded.meta["manifest"].notes
    assert "test_as_a_module" not in note
    assert torch.equal(loaded(X), network(X))
    assert loaded(X[:1]).shape[0] == 1
    again = espalier.load(espalier.pack(loaded, X, tmp_path / "again"))
    assert again.meta["manifest"].notes == (note,)


class Branching(nn.Module):
    def __init__(self, otherwise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.otherwise = otherwise

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return x * 2 if x.shape[0] > 1 else self.otherwise(x)


@pytest.mark.parametrize(
    "otherwise", [Tensor.sigmoid, lambda x: x.flatten() * 2, lambda x: (x * 2, x)]
)
def test_what_the_original_does_to_a_single_example_only_is_said(
    otherwise: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    network = Branching(otherwise).eval()
    with pytest.warns(PackingWarning, match="for a single example"):
        loaded = espalier.load(espalier.pack(network, X[:1], tmp_path / "n"))
    assert len(loaded.meta["manifest"].notes) == 1
    assert torch.equal(loaded(X), network(X))


def test_squeezing_other_dimensions_is_exact(tmp_path: Path) -> None:
    network = Squeezed(lambda x: x.squeeze(-1).squeeze((2, 1))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = espalier.load(espalier.pack(network, X, tmp_path / "n"))
    assert loaded.meta["manifest"].notes == ()
    for batch in (X, X[:1]):
        assert torch.equal(loaded(batch), network(batch))


def test_lifting_alone_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lift(Squeezed(Tensor.squeeze), X)
