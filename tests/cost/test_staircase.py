"""What is timed of a network, and the widths that follow from times by a rule that is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.sketch import Sketch
from espalier.format.ir import Graph
from espalier.format.lift import pack
from espalier.format.package import read_package
from espalier.targets import Target, processor
from search.cost import Budget, CostModel, chain_times
from search.cost.chain_files import input_of, write_chain
from search.cost.chain_times import completed
from search.cost.chains import Chain, Layer, Network
from search.cost.staircase import Decision, Probe
from search.graph import space_of
from tests.cost.test_rounding import concatenated, doubled_depthwise, grouped, heads, pixels
from tests.graph.programs import random_graph
from tests.networks import ZOO

TARGET = Target("onnxruntime", "1.0", processor())


def blocked(chain: Chain, block: int = 8) -> float:
    """Seconds of kernels that pad what they read and make to blocks."""

    def padded(channels: int) -> int:
        return -(-channels // block) * block

    def seconds(layer: Layer) -> float:
        positions = math.prod(layer.extent) * math.prod(layer.kernel)
        depthwise = layer.groups == layer.inputs > 1
        reads = 1 if depthwise else padded(layer.inputs) / layer.groups
        return 1e-9 * positions * padded(layer.outputs) * reads

    return 1e-6 + sum(map(seconds, chain.layers))


def decided(
    graph: Graph,
    *,
    share: float = 1.0,
    minimum: int = 1,
    rule: Callable[[Chain], float] = blocked,
) -> Decision:
    space = space_of(graph)
    probe, cost = Probe(space), CostModel(space)
    budget = Budget({"macs": int(share * cost.full["macs"])})
    seconds = {name: rule(chain) for name, chain in probe.chains.items()}
    return probe.decide(seconds, cost, budget, minimum)


def plain(*widths: int, pixels: int = 16) -> Graph:
    """A stack of 3x3 convolutions and a classifier."""
    s = Sketch()
    x = s.input(3, pixels, pixels)
    for index, width in enumerate(widths):
        x = s.op("relu", s.conv(x, width, kernel=3, path=f"conv{index}"))
    return s.graph(s.linear(s.pool(x), 10, path="head"))


def test_widths_are_multiples_of_what_the_kernels_are_fast_at() -> None:
    found = decided(plain(32, 64, 64))
    assert found.choices[0] == (8, 16, 24, 32)
    assert found.choices[1] == tuple(range(8, 65, 8))
    assert (found.finer, found.needed) == ((), ())


@pytest.mark.parametrize(
    "graph", [concatenated(), doubled_depthwise(), grouped(), heads(), pixels()]
)
def test_every_group_keeps_a_choice(graph: Graph) -> None:
    found, full = decided(graph), space_of(graph).full
    assert all(len(options) > 1 for options in found.choices)
    assert tuple(options[-1] for options in found.choices) == full


def test_heads_are_kept_whole_and_counted_by_their_channels() -> None:
    found = decided(heads(count=8, width=24))
    assert found.choices[1] == tuple(range(1, 9))
    found = decided(heads(count=8, width=12), rule=lambda chain: blocked(chain, 24))
    assert found.choices[1] == (2, 4, 6, 8)


def test_a_minimum_holds_too() -> None:
    assert decided(plain(64, 64), minimum=20).choices[0] == (24, 32, 40, 48, 56, 64)


def test_a_budget_that_only_other_widths_reach_gets_them_group_by_group() -> None:
    graph = plain(16, 16, 16)
    cost = CostModel(space_of(graph))
    coarse = decided(graph).choices
    least = cost.of(tuple(options[0] for options in coarse))["macs"] / cost.full["macs"]
    found = decided(graph, share=0.9 * least)
    assert found.needed
    assert len(found.needed) < 3
    narrowest = tuple(options[0] for options in found.choices)
    assert cost.of(narrowest)["macs"] <= 0.9 * least * cost.full["macs"]
    for group, before, after in zip(space_of(graph).groups, coarse, found.choices, strict=True):
        assert (before == after) == (group.name not in found.needed)


def test_where_nothing_can_be_timed_widths_are_multiples_of_eight() -> None:
    space = space_of(plain(32, 20))
    cost = CostModel(space)
    found = Probe(space).decide(None, cost, Budget({"macs": cost.full["macs"]}))
    assert found.choices == ((8, 16, 24, 32), (8, 16, 20))
    assert found.stairs == ()


def test_what_is_timed_is_bounded() -> None:
    wide = plain(*(range(64, 64 + 4 * 40, 4)), pixels=64)
    probe = Probe(space_of(wide))
    assert len(probe.chains) <= 400
    assert sum(chain.macs for chain in probe.chains.values()) <= 2 * 10**10
    assert any(probe.rungs)
    assert not all(probe.rungs)
    found = decided(wide)
    assert all(width % 8 == 0 for options in found.choices for width in options[:-1])


def test_chains_are_the_layers_around_a_group() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 12, path="first")
    x = s.op("relu", s.conv(x, 12, groups=12, kernel=3, path="depthwise"))
    space = space_of(s.graph(s.linear(s.pool(s.conv(x, 20, path="second")), 3, path="head")))
    network = Network(space)

    def around(group: int) -> list[list[tuple[int, int]]]:
        found = (network.chain(site, space.full) for site in network.sites if site.touches(group))
        return [[(layer.inputs, layer.outputs) for layer in chain.layers] for chain in found]

    assert around(0) == [[(3, 12), (12, 12), (12, 20)]]
    assert around(1) == [[(20, 3)], [(12, 20)]]  # pooling is between them


@pytest.mark.parametrize(
    "layers",
    [
        (Layer(3, 8, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
         Layer(8, 8, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), groups=8),
         Layer(8, 6, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), groups=2)),
        (Layer(4, 6, (7,), (3,), (1,), (1,), (1,)),),
        (Layer(12, 20, (5,)), Layer(20, 12, (5,))),
        (Layer(12, 20, (1,)),),
    ],
)  # fmt: skip
def test_files_of_chains_compute_what_they_say(layers: tuple[Layer, ...], tmp_path: Path) -> None:
    chain = Chain(layers)
    path = write_chain(chain, tmp_path / "chain.onnx")
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"input": input_of(chain, 2)})
    last = layers[-1]
    assert found.shape[0] == 2
    assert found.shape[1 if last.kernel else -1] == last.outputs
    stored = onnx.load(path).graph.initializer
    elements = sum(int(np.prod(t.dims)) for t in stored if t.name.endswith("weight"))
    assert elements == sum(layer.elements for layer in layers)


def test_macs_of_a_chain_are_those_of_the_cost_model() -> None:
    space = space_of(plain(8, 12))
    network, cost = Network(space), CostModel(space)
    layers = {layer for site in network.sites for layer in network.chain(site, space.full).layers}
    assert sum(layer.macs for layer in layers) == cost.full["macs"]


def test_what_is_known_is_not_measured_and_what_is_new_is_on_its_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock is twice as fast as it was when the known chains were measured."""
    chains = Probe(space_of(plain(16, 32))).chains
    truth = {name: blocked(chain) for name, chain in chains.items()}
    timed: list[str] = []

    def measure(chains: dict[str, Chain], _: Target) -> dict[str, float]:
        timed.extend(chains)
        return {name: truth[name] / 2 for name in chains}

    monkeypatch.setattr(chain_times, "measure", measure)
    assert completed(chains, TARGET, {**truth, "of another network": 1.0}) == truth
    assert not timed
    known = dict(list(truth.items())[: len(truth) // 2])
    assert completed(chains, TARGET, known) == pytest.approx(truth)
    assert set(truth) - set(known) <= set(timed)
    assert len(timed) < len(truth)


def test_times_of_real_chains_tell_wide_from_narrow() -> None:
    narrow = Layer(32, 32, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1))
    chains = {str(Chain((each,))): Chain((each,)) for each in
              (narrow, replace(narrow, outputs=256))}  # fmt: skip
    seconds = chain_times.measure(chains, TARGET)
    first, second = seconds.values()
    assert 2 * first < second


def _check(graph: Graph, folder: Path) -> int:
    """Chains fit together at every width, and the widest and narrowest run."""
    probe = Probe(space_of(graph))
    chains = list(probe.chains.values())
    for chain in chains:
        for before, after in itertools.pairwise(chain.layers):
            assert before.outputs == after.inputs
        for layer in chain.layers:
            assert layer.inputs % layer.groups == layer.outputs % layer.groups == 0
    for chain in (*chains[:1], *chains[-1:]):
        session = onnxruntime.InferenceSession(write_chain(chain, folder / "chain.onnx"))
        (found,) = session.run(None, {"input": input_of(chain, 2)})
        assert np.isfinite(found).all()
    return len(chains)


@pytest.mark.parametrize("name", ZOO)
def test_chains_of_real_networks_fit_together(name: str, tmp_path: Path) -> None:
    network, example = ZOO[name]()
    path = pack(network.eval(), example, tmp_path / "n.espalier")
    _check(read_package(path).graph, tmp_path)


def test_chains_of_random_networks_fit_together(tmp_path: Path) -> None:
    found = (_check(random_graph(seed, steps=4 + seed % 20), tmp_path) for seed in range(40))
    assert sum(count > 0 for count in found) > 20
