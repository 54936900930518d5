"""What is carried, how it is normalised, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import espalier
from espalier.format.build import build, graph_of
from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.ir import Batch
from espalier.format.lift import lift


class Computes(nn.Module):
    """Whatever a function computes, with some modules at hand."""

    def __init__(self, function: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def agrees(network: nn.Module, *shapes: tuple[int, ...]) -> torch.fx.GraphModule:
    """Lift and rebuild; equal to the last bit for batches of one to four."""
    network.eval()
    inputs = tuple(torch.randn(2, *shape) for shape in shapes)
    rebuilt = build(*lift(network, inputs))
    for batch in (1, 2, 4):
        given = [torch.randn(batch, *shape) for shape in shapes]
        expected = network(*(value.clone() for value in given))
        found = rebuilt(*(value.clone() for value in given))
        pairs = [(expected, found)] if isinstance(expected, Tensor) else zip(expected, found)  # noqa: B905
        for left, right in pairs:
            assert torch.equal(left, right)
    return rebuilt


IMAGE = (4, 6, 8)
CARRIED: dict[str, Callable[[Any, Any], Tensor]] = {
    "one minus": lambda _, x: 1 - x,
    "reciprocal": lambda _, x: 2.0 / (x.abs() + 1),
    "powers": lambda _, x: x**2 + 2.0**x,
    "clamps": lambda _, x: x.clamp(min=-0.5).clamp(max=0.7).clamp(-0.2, 0.3),
    "activations": lambda _, x: F.mish(F.softplus(x)) + F.elu(x, 0.5) + F.leaky_relu(x, 0.2),
    "gelu tanh": lambda _, x: F.gelu(x, approximate="tanh"),
    "extremes": lambda _, x: torch.maximum(x, x * 2) + torch.minimum(x, x * 0.5),
    "reductions": lambda _, x: x.sum(1) + x.amax(1) + x.amin(1) + x.var(1) + x.mean(1),
    "negative slice": lambda _, x: x[..., -3:-1],
    "stepped slice": lambda _, x: x[:, 1::2, ::3],
    "stack": lambda _, x: torch.stack([x, x * 2], dim=2).flatten(1, 2),
    "split": lambda _, x: torch.cat(list(reversed(x.split([1, 3], dim=1))), 1),
    "chunks": lambda _, x: sum(x.chunk(3, dim=2), torch.zeros(())),
    "unbind": lambda _, x: x.unbind(1)[2] * x.select(1, -1),
    "repeat": lambda _, x: x.repeat(1, 2, 1, 1),
    "movedim": lambda _, x: x.movedim(1, -1),
    "swap": lambda _, x: x.swapaxes(1, 2),
    "roll": lambda _, x: torch.roll(x, (1, -2), (2, 3)),
    "reflect": lambda _, x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "crop": lambda _, x: F.pad(x, (-1, 2, 0, -1), value=1.5),
    "channels last": lambda _, x: x.contiguous(memory_format=torch.channels_last) * 2,
    "pixel unshuffle": lambda _, x: F.pixel_unshuffle(x, 2),
    "channel shuffle": lambda _, x: F.channel_shuffle(x, 2),
    "nearest": lambda _, x: F.interpolate(x, size=(9, 5)),
    "bicubic": lambda _, x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
    "max pool": lambda _, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg pool": lambda _, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive max": lambda _, x: F.adaptive_max_pool2d(x, (2, 3)),
    "layer norm": lambda _, x: F.layer_norm(x, (8,)),
    "causal": lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "fold heads": lambda _, x: torch.bmm(x.view(-1, 6, 8), x.view(-1, 6, 8).mT).view(-1, 4, 6, 6),
    "constant": lambda _, x: x + torch.arange(8.0),
    "zeros": lambda _, x: torch.cat([x, torch.zeros_like(x), x.new_zeros(x.shape[0], 2, 6, 8)], 1),
    "in place": lambda _, x: (x * 1).relu_().add_(1).mul_(2),
}


@pytest.mark.parametrize("name", CARRIED)
def test_carried(name: str) -> None:
    agrees(Computes(CARRIED[name]), IMAGE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, (2, 4), padding="same", dilation=(1, 3)),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding=2, padding_mode="replicate", groups=2),
        nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), padding=1, output_padding=(1, 2), groups=2),
        nn.PReLU(),
        nn.LayerNorm([6, 8]),
        nn.LayerNorm(8, bias=False),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.GroupNorm(2, 4),
        nn.BatchNorm2d(4, affine=False),
        nn.InstanceNorm2d(4, affine=True),
        nn.Hardswish(),
        nn.ZeroPad2d((1, 0, 2, 1)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_modules_are_carried(layer: nn.Module) -> None:
    agrees(nn.Sequential(layer), IMAGE)


def test_a_module_called_twice_stays_one() -> None:
    conv = nn.Conv2d(4, 4, 1)
    rebuilt = agrees(Computes(lambda self, x: self.conv(self.conv(x)), conv=conv), IMAGE)
    assert list(graph_of(rebuilt).modules) == ["conv"]
    assert sum(node.op == "module" for node in graph_of(rebuilt).nodes) == 2


def test_tied_weights_stay_tied() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return F.linear(F.linear(x, self.a.weight), self.a.weight.t())

    rebuilt = agrees(Computes(forward, a=nn.Linear(8, 5, bias=False)), IMAGE)
    assert [name for name, _ in rebuilt.named_parameters()] == ["a.weight"]


def test_unused_parameters_and_calls_are_left_out() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        self.aside(x)
        return self.used(x)

    rebuilt = agrees(Computes(forward, aside=nn.Linear(8, 8), used=nn.Linear(8, 2)), IMAGE)
    assert list(rebuilt.state_dict()) == ["used.weight", "used.bias"]


def test_buffers_are_stored_but_not_trained() -> None:
    class Scales(nn.Module):
        kept: Tensor
        derived: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.rand(8))
            self.register_buffer("derived", torch.rand(8), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x * self.kept + self.derived
            return y

    rebuilt = agrees(Scales(), IMAGE)
    assert set(dict(rebuilt.named_buffers())) == {"kept", "derived"}
    assert list(rebuilt.parameters()) == []


def test_several_inputs_and_outputs() -> None:
    rebuilt = agrees(Computes(lambda _, x, y: (x + 1, x * y)), (3,), (3,))
    assert list(graph_of(rebuilt).inputs.values())[1].shape == (Batch(1), 3)


def test_embedding_reads_integers(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(10, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2))
    words = torch.randint(0, 10, (2, 3))
    loaded = espalier.load(espalier.pack(network, words, tmp_path / "n"))
    assert torch.equal(loaded(words), network(words))
    assert str(loaded.get_submodule("0")) == str(network[0])


def test_functional_dropout_obeys_the_mode() -> None:
    network = Computes(lambda self, x: F.dropout(x, 0.5, training=self.training))
    rebuilt = agrees(network, IMAGE)
    rebuilt.train()
    dropped = (rebuilt(torch.ones(3, *IMAGE)) == 0).float().mean()
    assert 0.4 < dropped < 0.6


def test_an_example_of_one_is_enough() -> None:
    rebuilt = build(*lift(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 4)))
    assert rebuilt(torch.randn(7, 3, 4)).shape == (7, 2)


# --- refusals -----------------------------------------------------------------------------------


def refused(function: Callable[..., object], **modules: nn.Module) -> str:
    with pytest.raises(FormatError) as caught:
        lift(Computes(function, **modules), torch.randn(2, *IMAGE))
    return str(caught.value)


def test_an_unknown_operator_is_named_with_its_line() -> None:
    def forward(_: nn.Module, x: Tensor) -> Tensor:
        return torch.erfinv(x)  # the line

    message = refused(forward)
    assert "aten.erfinv.default" in message
    assert "test_lift.py:" in message
    assert "return torch.erfinv(x)" in message
    assert str(Path(__file__).parent) not in message


def test_a_fixed_batch_size_is_refused_with_its_line() -> None:
    def forward(_: nn.Module, x: Tensor) -> Tensor:
        return x.view(2, 2, 2, 6, 8)

    message = refused(forward)
    assert "fixes its batch size at test_lift.py:" in message
    assert "x.view(2, 2, 2, 6, 8)" in message

    def branches(_: nn.Module, x: Tensor) -> Tensor:
        return x if x.shape[0] == 2 else x + 1

    assert "if x.shape[0] == 2" in refused(branches)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda _, x: F.dropout(x, 0.5), "eval mode too"),
        (lambda _, x: F.batch_norm(x, None, None, training=True), "module"),
        (lambda _, x: x.flip(0), "keep their order"),
        (lambda _, x: x.max(), "stay apart"),
        (lambda _, x: x.max(1).indices, "single tensor"),
        (lambda _, x: F.dropout2d(x, 0.5), "eval mode too"),
        (lambda _, x: x[:, [1, 0]], "take slices"),
        (
            lambda _, x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
            "repeat the keys and values",
        ),
        (lambda _, x: x.mean(), "stay apart"),
        (lambda _, x: x.mean(0, keepdim=True), "stay apart"),
        (lambda _, x: x.double(), "element type"),
        (lambda _, x: x[:1], "batch"),
        (lambda _, x: {"a": x}, "flat tuple"),
        (lambda _, x: x.softmax(0), "mix examples"),
        (lambda _, x: x * x.shape[0], "batch"),
        (lambda _, x: x if x.sum() > 0 else -x, "cannot be traced"),
        (lambda _, x: F.interpolate(x, scale_factor=1.4), "whole sizes"),
    ],
)
def test_refused(function: Callable[..., object], words: str) -> None:
    assert words in refused(function)


def test_a_change_through_a_view_is_refused() -> None:
    def forward(_: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :2].relu_()
        return y + 1

    assert "in place" in refused(forward)


def test_the_refusal_is_typed() -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        lift(Computes(lambda _, x: x.erfinv()), torch.randn(2, *IMAGE))
    assert caught.value.code == "format.unsupported_operator"
