"""In-place calls: carried where they mean the same as their functional form, refused elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import espalier
from espalier.format import lift_calls
from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.lift import lift

aten = torch.ops.aten


class Computes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def agrees(network: nn.Module, path: Path, batches: tuple[int, ...] = (1, 2, 3)) -> None:
    """Packed and loaded it gives the same."""
    x = torch.rand(2, 3, 4, 4) + 0.1
    loaded = espalier.load(espalier.pack(network.eval(), x, path))
    for batch in batches:
        x = torch.rand(batch, 3, 4, 4) + 0.1
        torch.testing.assert_close(loaded(x.clone()), network(x), rtol=1e-6, atol=1e-6)


def in_place_forms() -> Iterator[tuple[Any, Any]]:
    """Every call that is translated and has an in-place form: both, paired by their arguments."""
    for target in lift_calls.HANDLERS:
        if not isinstance(target, torch._ops.OpOverload):
            continue
        types = [str(argument.type) for argument in target._schema.arguments]
        packet = getattr(aten, target._schema.name.removeprefix("aten::") + "_", None)
        for name in packet.overloads() if packet else ():
            form = getattr(packet, name)
            if [str(argument.type) for argument in form._schema.arguments] == types:
                yield target, form


ARGUMENTS: Mapping[str, tuple[Any, ...]] = {
    "add_": (2.0,),
    "alpha_dropout_": (0.5, False),
    "clamp_": (0.2, 0.5),
    "clamp_max_": (0.5,),
    "clamp_min_": (0.2,),
    "div_": (3.0,),
    "dropout_": (0.5, False),
    "feature_dropout_": (0.5, False),
    "masked_fill_": (torch.eye(4).bool(), 0.5),
    "mul_": (3.0,),
    "pow_": (2,),
    "squeeze_.dim": (1,),
    "squeeze_.dims": ((1, 2),),
    "sub_": (2.0,),
    "swapaxes_": (1, 2),
    "swapdims_": (1, 3),
    "threshold_": (0.5, 0.25),
    "transpose_": (2, 3),
    "true_divide_": (3.0,),
    "unsqueeze_": (1,),
}
"""What a call takes besides the tensor; nothing by default."""

FORMS = {str(form).removeprefix("aten."): form for _, form in in_place_forms()}
del FORMS["alpha_dropout_.default"]  # carried as a module only: below


@pytest.mark.filterwarnings("ignore:operator aten.squeeze")  # what it does to a batch of one
@pytest.mark.parametrize("name", FORMS)
def test_every_translated_call_in_its_in_place_form(name: str, tmp_path: Path) -> None:
    form, packet = FORMS[name], name.split(".")[0]
    given: tuple[Any, ...] = ARGUMENTS.get(name, ARGUMENTS.get(packet, ()))
    if name.endswith(".Tensor"):
        given = (torch.tensor([[1.5, 2.0, 0.5, 3.0]]),)

    def function(x: Tensor) -> Tensor:
        y = x * 1
        if name == "t_.default":
            y = y.flatten(1).mean(1, keepdim=True).squeeze(1)
        result: Tensor = form(y, *given) * 2
        return result

    # `squeeze` without dimensions drops a batch of one, which no package does.
    agrees(Computes(function), tmp_path / "n", (2, 3) if packet == "squeeze_" else (1, 2, 3))


def test_the_forms_are_many() -> None:
    assert len(FORMS) > 45
    assert {"dropout_.default", "relu_.default", "pow_.Scalar", "mul_.Tensor"} <= FORMS.keys()


IN_PLACE_LAYERS: dict[str, Any] = {
    name: kind
    for name, kind in vars(nn).items()
    if inspect.isclass(kind) and "inplace" in inspect.signature(kind).parameters
}
NOT_CARRIED = {"RReLU", "FeatureAlphaDropout"}


@pytest.mark.parametrize("name", sorted(IN_PLACE_LAYERS.keys() - NOT_CARRIED))
def test_every_layer_with_inplace(name: str, tmp_path: Path) -> None:
    arguments = {"Threshold": (0.1, -2.0)}.get(name, ())
    layer = IN_PLACE_LAYERS[name](*arguments, inplace=True)
    shape = {"Dropout1d": nn.Flatten(2), "Dropout3d": nn.Unflatten(1, (2, 2))}
    flat = shape.get(name, nn.Identity())
    agrees(nn.Sequential(nn.Conv2d(3, 4, 3), flat, layer, nn.Flatten()), tmp_path / "n")


@pytest.mark.parametrize("name", sorted(NOT_CARRIED))
def test_layers_that_are_not_carried_are_refused_by_name(name: str) -> None:
    network = nn.Sequential(IN_PLACE_LAYERS[name](inplace=True))
    with pytest.raises(UnsupportedOperator, match=r"aten\.\w+"):
        lift(network, torch.rand(2, 3, 4, 4))


# --- what else looks at the memory ----------------------------------------------------------------


def _residual(x: Tensor) -> Tensor:
    y = x * 2
    identity = y
    y += F.relu(y)
    y = F.relu(y, inplace=True)
    return y + identity  # the same tensor under two names


def _in_steps(x: Tensor) -> Tensor:
    y = x.mul(2).relu_().add_(1)
    z = y.flatten(1)
    return F.dropout(z, 0.5, training=False, inplace=True)


def _input(x: Tensor) -> Tensor:
    x.relu_()
    return x + 1


def _moments(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, (2, 3))
    return var.add_(1) * mean


@pytest.mark.parametrize("function", [_residual, _in_steps, _input, _moments])
def test_every_name_of_a_changed_tensor_sees_the_change(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    agrees(Computes(function), tmp_path / "n")


def _view_read(x: Tensor) -> Tensor:
    y = x * 2
    view = y[:, :2]
    y.neg_()
    return view + 1


def _view_returned(x: Tensor) -> Tensor:
    y = x * 2
    view = y[:, :2]
    y.neg_()
    return view


def _through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :2].neg_()
    return y + 1


def _a_piece(x: Tensor) -> Tensor:
    y = x * 2
    first, second = torch.split(y, [1, 2], 1)
    y.neg_()
    return torch.mul(first, second[:, :1])


def _unannotated(x: Tensor) -> Tensor:
    """`einsum` permutes here: its result is a view, though its schema does not say so."""
    y = x * 2
    torch.einsum("nchw->nhwc", y).neg_()
    return y + 1


def _behind_dropout(x: Tensor) -> Tensor:
    y = x * 2
    F.dropout(y, 0.5, training=False).neg_()
    return y + 1


@pytest.mark.parametrize(
    "function",
    [_view_read, _view_returned, _through_a_view, _a_piece, _unannotated, _behind_dropout],
)
def test_a_change_that_another_view_would_see_is_refused(
    function: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(UnsupportedOperator, match="in place through a view"):
        lift(Computes(function), torch.rand(2, 3, 4, 4))


def test_a_network_that_changes_itself_is_refused() -> None:
    """The second call of the original would give something else."""

    class Counts(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(UnsupportedOperator, match="its forward changes"):
        lift(Counts(), torch.rand(2, 3, 4, 4))


# --- stray errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyError("input"), IndexError(), TypeError("x"), AttributeError(), RuntimeError("x")]
)
def test_a_rule_that_fails_is_a_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rule(*_: object) -> None:
        raise error

    monkeypatch.setitem(lift_calls.HANDLERS, aten.relu.default, rule)

    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()  # the line

    with pytest.raises(UnsupportedOperator) as caught:
        espalier.pack(Line(), torch.rand(2, 3, 4, 4), tmp_path / "n")
    assert caught.value.__cause__ is error
    for words in ("aten.relu.default", type(error).__name__, "test_in_place.py", "# the line"):
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_translation_that_does_not_run_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: Tensor) -> Tensor:
        raise RuntimeError("no kernel")

    from espalier.format import build_operators as operators

    monkeypatch.setitem(operators.FUNCTIONS, "erf", operators._unary(fails))
    with pytest.raises(UnsupportedOperator, match=r"aten\.erf\.default .*no kernel.*in_place\.py"):
        espalier.pack(Computes(lambda x: x.erf()), torch.rand(2, 3, 4, 4), tmp_path / "n")


def test_an_error_between_the_calls_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise AttributeError("stray")

    monkeypatch.setattr("espalier.format.lift.compare", fails)
    with pytest.raises(FormatError, match="AttributeError: stray"):
        espalier.pack(nn.Flatten(), torch.rand(2, 3), tmp_path / "n")
