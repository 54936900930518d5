"""The cost model against the pruned networks themselves: counted, stored, and run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espalier.format.build import build
from espalier.format.lift import lift
from search.cost import CostModel
from search.graph import space_of
from search.pruning import apply, everything
from search.space import Kept
from tests.networks import ZOO
from tests.pruning.cases import case, plan_of, random_kept

PLANS = 4


class Memory(fx.Interpreter):
    """Runs a network and watches the storages that are held while each node runs."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.weights = {
            tensor.untyped_storage().data_ptr()
            for tensor in (*network.parameters(), *network.buffers())
        }
        self.peak = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        storages = {
            value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
            for value in (*self.env.values(), result)
            if isinstance(value, Tensor)
        }
        held = sum(size for at, size in storages.items() if at not in self.weights)
        self.peak = max(self.peak, held)
        return result


def measured(network: fx.GraphModule, *example: Tensor) -> dict[str, int]:
    """The costs of a network, from running it on one example and from what it stores."""
    memory, counter = Memory(network), FlopCounterMode(display=False)
    with torch.no_grad():
        memory.run(*example)
        with counter, sdpa_kernel(SDPBackend.MATH):  # made of matrix products, which are counted
            network(*example)
    stored = (*network.parameters(), *network.buffers())
    return {
        "macs": counter.get_total_flops() // 2,
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "weight_bytes": sum(t.numel() * t.element_size() for t in stored),
        "peak_activation_bytes": memory.peak,
    }


@functools.cache
def model(name: str) -> CostModel:
    return CostModel(case(name, torch.float32).space)


@pytest.mark.parametrize("name", ZOO)
def test_every_cost_is_that_of_the_materialised_network(name: str) -> None:
    subject = case(name, torch.float32)
    example = subject.example[:1].clone()
    generator = np.random.default_rng(5)
    kept: list[Kept] = [everything(subject.space)]
    kept += [random_kept(subject.space, generator) for _ in range(PLANS)]
    plans = [plan_of(item) for item in kept]
    costs = model(name).many(plans)
    for index, item in enumerate(kept):
        found = {cost: int(values[index]) for cost, values in costs.items()}
        pruned = apply(subject.network, subject.space, item)
        assert found == measured(pruned, example), plans[index]
        assert found == model(name).of(plans[index])


class ChannelsLast(nn.Module):
    """Channels come last, an operator sees them second, and what it wrote is flattened."""

    def __init__(self, operator: Callable[[Tensor], Tensor], outputs: int) -> None:
        super().__init__()
        self.embed, self.head, self.skip = nn.Linear(3, 16), nn.Linear(outputs, 4), nn.Linear(16, 4)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 3, 1, 2)
        result: Tensor = self.head(self.operator(x).flatten(1)) + self.skip(x.mean((2, 3)))
        return result


@pytest.mark.parametrize(
    "operator",
    [
        nn.BatchNorm2d(16),
        nn.GroupNorm(4, 16),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.AdaptiveMaxPool2d(4),
        lambda x: x.roll(2, 2),
        lambda x: x.flip(3),
        lambda x: torch.cat([x, x * 2], 1),
        lambda x: torch.cat([x, x.contiguous()], 1),
        lambda x: x.masked_fill(torch.eye(8).bool(), 0.0),
    ],
)
def test_operators_write_in_the_order_that_torch_does(operator: Callable[[Tensor], Tensor]) -> None:
    """Whether `flatten` copies behind them is a matter of the peak."""
    x = torch.randn(2, 8, 8, 3)
    outputs = operator(torch.zeros(2, 16, 8, 8)).flatten(1).shape[1]
    graph, tensors = lift(ChannelsLast(operator, outputs).eval(), x)
    network, space = build(graph, tensors), space_of(graph)
    found = CostModel(space).of(space.full)["peak_activation_bytes"]
    assert found == measured(network, x[:1].clone())["peak_activation_bytes"]


@pytest.mark.parametrize("name", ZOO)
def test_every_cost_grows_with_every_group(name: str) -> None:
    """From a wider plan to a narrower one no cost rises, and MACs and parameters fall."""
    space = case(name, torch.float32).space
    generator = np.random.default_rng(6)
    full = np.array(space.full)
    wide = generator.integers(2, full + 1, size=(50, len(full)))
    before = model(name).many(wide)
    for group in range(len(full)):
        narrow = wide.copy()
        narrow[:, group] = generator.integers(1, wide[:, group])
        after = model(name).many(narrow)
        for cost, values in after.items():
            assert (values <= before[cost]).all(), (cost, group)
        assert (after["params"] < before["params"]).all()
        assert (after["macs"] < before["macs"]).all()


def test_a_plan_that_does_not_fit_is_refused() -> None:
    full = case("resnet20b", torch.float32).space.full
    for wrong in ((0, *full[1:]), (*full[:-1], full[-1] + 1), full[1:], tuple(map(float, full))):
        with pytest.raises(ValueError, match=r"plan"):
            model("resnet20b").many([wrong])
