"""Which layers are solved for, on networks where it is easily mistaken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from espalier.format.build import build, tensors_of
from espalier.format.lift import lift
from search.graph import space_of
from search.pruning import apply
from search.reconstruction import Parallel, sequential
from search.reconstruction.layers import layers


class Tied(nn.Module):
    """An embedding whose weight gives the outputs too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.wide, self.back = (
            nn.Embedding(11, 12),
            nn.Linear(12, 24),
            nn.Linear(24, 12),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.back(self.wide(x).relu())
        return nn.functional.linear(x.mean(1), self.embed.weight)


class Twice(nn.Module):
    """A weight that is used for two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 6)
        self.weight = nn.Parameter(torch.randn(24, 24) / 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(self.first(x).relu(), self.weight).relu()
        result: Tensor = self.last(nn.functional.linear(x, self.weight).relu())
        return result


@pytest.mark.parametrize(
    ("kind", "shared", "x"),
    [
        (Tied, "embed.weight", torch.arange(770).reshape(110, 7) % 11),
        (Twice, "weight", torch.linspace(-2, 2, 960).sin().reshape(120, 8)),
    ],
)
def test_a_weight_with_a_second_use_is_left_alone(
    kind: type[nn.Module], shared: str, x: Tensor
) -> None:
    torch.manual_seed(0)
    graph, tensors = lift(kind().eval(), x[:2])
    network, space = build(graph, tensors), space_of(graph)
    kept = tuple(tuple(range(group.channels * 3 // 4)) for group in space.groups)
    cut = apply(network, space, kept)
    assert shared not in {layer.weight for layer in layers(graph)}
    for solved in (
        Parallel(network, space, [x]).reconstruct(cut, kept),
        sequential(network, cut, space, kept, [x]).network,
    ):
        assert torch.equal(tensors_of(solved)[shared], tensors_of(cut)[shared])
        others = tensors_of(cut).keys() - {shared}
        assert any(
            not torch.equal(tensors_of(solved)[name], tensors_of(cut)[name]) for name in others
        )


class NormedTokens(nn.Module):
    """A batch-norm over the tokens behind a linear map, not over its features."""

    def __init__(self, tokens: int, width: int, bias: bool) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 24), nn.Linear(24, width, bias=bias)
        self.norm, self.head = nn.BatchNorm1d(tokens), nn.Linear(width, 5)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.narrow(self.wide(x).relu())).relu()
        result: Tensor = self.head(x.mean(1))
        return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [6, 16])  # 16: as many as features
def test_a_norm_over_another_dimension_is_not_the_layers(tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain, x = NormedTokens(tokens, 16, bias).eval(), torch.randn(200, tokens, 8) + 1
    graph, tensors = lift(plain, x[:2])
    network, space = build(graph, tensors), space_of(graph)
    kept = tuple(
        tuple(range(group.channels // 2 if group.name == "wide" else group.channels))
        for group in space.groups
    )
    cut = apply(network, space, kept)
    (narrow,) = (layer for layer in layers(graph) if layer.weight == "narrow.weight")
    assert narrow.norm is None
    with torch.no_grad():
        lost = float((cut(x) - plain(x)).square().mean())
        for solved in (
            Parallel(network, space, [x]).reconstruct(cut, kept),
            sequential(network, cut, space, kept, [x]).network,
        ):
            for name in ("norm.running_mean", "norm.running_var"):
                assert torch.equal(tensors_of(solved)[name], tensors[name])
            assert float((solved(x) - plain(x)).square().mean()) < 0.5 * lost


def test_one_row_of_inputs_moves_no_weight() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    graph, tensors = lift(plain, torch.zeros(2, 8))
    network, space = build(graph, tensors), space_of(graph)
    kept = (tuple(range(12)),)
    cut = apply(network, space, kept)
    solved = Parallel(network, space, [torch.randn(1, 8)]).reconstruct(cut, kept)
    assert torch.equal(tensors_of(solved)["2.weight"], tensors_of(cut)["2.weight"])
