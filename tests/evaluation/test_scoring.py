"""The fast ways of scoring give what the plain network gives."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import pytest
import torch
from torch import Tensor, fx, nn

from espalier.format.build import build, graph_of
from espalier.format.ir import Graph
from espalier.format.lift import lift
from search.evaluation.inference import Inference, folded
from search.evaluation.prefixes import Cache
from search.evaluation.program import Run, program_of
from search.evaluation.recalibrate import (
    Layerwise,
    Moments,
    can_go_layerwise,
    recalibrate,
    tracked_norms,
)
from search.evaluation.scoring import Inputs, Scorer
from search.graph import space_of
from search.pruning import apply, clone, everything
from search.space import Kept
from tests.networks import ZOO

zoo = pytest.mark.parametrize("name", [name for name in ZOO if name != "resnet56a"])


@functools.cache
def lifted(name: str) -> tuple[Graph, dict[str, Tensor], Tensor]:
    network, example = ZOO[name]()
    return *lift(network, example), example


def built(name: str) -> tuple[fx.GraphModule, Tensor]:
    graph, tensors, example = lifted(name)
    return build(graph, tensors), example


def cut_in_half(name: str) -> tuple[fx.GraphModule, fx.GraphModule, Tensor]:
    """A network and its cut with memory of their own, and an example; float64."""
    network, example = built(name)
    space = space_of(graph_of(network))
    kept = tuple(tuple(range(0, group.channels, 2)) for group in space.groups)
    cut = clone(apply(network, space, kept)).double()
    return clone(network).double(), cut, example.double()


def examples(example: Tensor, count: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *example.shape[1:])
    return torch.randn(shape, generator=generator, dtype=example.dtype)


@zoo
def test_the_folded_form_equals_the_network(name: str) -> None:
    network, cut, example = cut_in_half(name)
    inputs = examples(example, 5)
    for whole in (network, cut):
        before = copy.deepcopy(whole.state_dict())
        with torch.no_grad():
            expected = whole(inputs)
        with torch.inference_mode():
            given = inputs.clone()
            found = Inference(whole)(given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
        assert torch.equal(given, inputs)
        assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())


def test_every_norm_behind_a_convolution_is_folded() -> None:
    for name, norms in (("resnet20a", 19), ("mobilenet_v2_bn", None), ("mlp", 1), ("conv1d", 2)):
        network, _ = built(name)
        run = Inference(network)
        pairs = list(folded(run.program, run.modules))
        assert len(pairs) == (len(tracked_norms(network)) if norms is None else norms)


def test_a_norm_is_not_folded_into_what_others_read() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y: Tensor = (x + self.norm(x)).mean((2, 3))
            return y

    network = build(*lift(Read().eval(), torch.randn(2, 3, 8, 8)))
    run = Run(network)
    assert not list(folded(run.program, run.modules))


@pytest.mark.parametrize("name", ["resnet20a", "shufflenet_v2", "unet", "vit_fused", "mlp"])
def test_a_run_goes_on_from_any_step(name: str) -> None:
    network, example = built(name)
    run = Inference(network)
    inputs = examples(example, 2)
    with torch.inference_mode():
        expected = run(inputs)
        values, at = run.begin(inputs), 0
        for stop in range(0, len(run.program.steps), 7):
            run.advance(values, at, stop)
            held = {place for place, value in enumerate(values) if value is not None}
            inputs_read = {0} if stop == 0 else set()
            assert held <= {*run.program.live(stop), *inputs_read}
            values, at = list(values), stop
        run.advance(values, at, len(run.program.steps))
        assert torch.equal(run.result(values), expected)


def test_cuts_share_a_program() -> None:
    network, _ = built("mobilenet_v2_bn")
    cut = apply(network, space_of(graph_of(network)), siblings(network)[0])
    assert program_of(cut) is program_of(network)
    assert program_of(clone(cut)) is program_of(network)


def test_a_program_goes_with_its_network() -> None:
    network, _ = built("mlp")
    gone = weakref.ref(program_of(network))
    del network
    gc.collect()
    assert gone() is None


# --- statistics ---------------------------------------------------------------------------------


def settle(network: fx.GraphModule, path: str, inputs: Tensor) -> None:
    """Give a batch-norm the statistics of what reaches it, all examples at once."""
    seen: list[Tensor] = []
    norm = network.get_submodule(path)
    handle = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(inputs)
    handle.remove()
    rows = seen[0].movedim(1, -1).flatten(0, -2)
    norm.running_mean, norm.running_var = rows.mean(0), rows.var(0)


NORMED = [n for n in ZOO if n not in ("resnet56a", "resnet20b") and tracked_norms(ZOO[n]()[0])]


@pytest.mark.parametrize("name", NORMED)
def test_statistics_are_those_of_all_examples_whatever_the_batches(name: str) -> None:
    _, cut, example = cut_in_half(name)
    inputs = examples(example, 9)
    expected, found = clone(cut), clone(cut)
    run = Layerwise(found)
    assert can_go_layerwise(found)
    assert len(run.norms) == len(tracked_norms(cut))
    for at in run.norms:
        settle(expected, run.program.steps[at].target, inputs)
    before = copy.deepcopy(cut.state_dict())
    run.find([run.begin(part) for part in torch.split(inputs, 4)])
    for key, value in found.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(value, expected.state_dict()[key], rtol=1e-8, atol=1e-10)
        elif "num_batches" not in key:
            assert torch.equal(value, before[key])
    assert not any(module.training for module in found.modules())


def test_moments_are_exact_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, 5, generator=generator) + 1000
    moments = Moments()
    for part in torch.split(x, 7):
        moments.add(part)
    rows = x.double().movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(moments.variance, rows.var(0), rtol=1e-4, atol=0)


class Shared(nn.Module):
    """One batch-norm for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv2(self.norm(self.conv1(x))))
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


def scorer(network: fx.GraphModule, example: Tensor, cache: Cache | None = None) -> Scorer:
    """On 10 calibration and 11 hold-out examples, 4 at once."""
    first, second = examples(example, 10, 5), examples(example, 11, 6)
    return Scorer(
        network,
        Inputs(10, 4, lambda a, b: first[a:b]),
        Inputs(11, 4, lambda a, b: second[a:b]),
        batch_size=5,
        cache=cache,
    )


def test_batch_after_batch_where_layers_share_a_norm_or_too_much_is_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = build(*lift(Shared().eval(), torch.randn(2, 3, 8, 8)))
    assert not can_go_layerwise(shared)
    large, example = built("resnet20a")
    monkeypatch.setattr("search.evaluation.scoring.LAYERWISE_BYTES", 10_000)
    monkeypatch.setattr(Layerwise, "find", None)
    for network, one in ((shared, torch.zeros(1, 3, 8, 8)), (large, example)):
        found, expected = clone(network), clone(network)
        scorer(network, one).recalibrate(found)
        recalibrate(expected, torch.split(examples(one, 10, 5), 5))
        for key, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], value)


# --- what siblings share ------------------------------------------------------------------------


def siblings(network: fx.GraphModule) -> list[Kept]:
    """Cuts of the last groups alone, by three widths, as a sensitivity sweep makes them."""
    space = space_of(graph_of(network))
    found = []
    for group in range(max(0, len(space.groups) - 3), len(space.groups)):
        for step in (2, 3, 4):
            kept = list(everything(space))
            kept[group] = kept[group][::step]
            found.append(tuple(kept))
    return found


SHARING = ["resnet20a", "mobilenet_v2_bn", "densenet", "shufflenet_v2", "vit_fused", "conv1d"]


@pytest.mark.parametrize("name", SHARING)
def test_scores_are_the_same_with_and_without_the_cache(name: str) -> None:
    network, example = built(name)
    space = space_of(graph_of(network))
    cache = Cache()
    sharing = scorer(network, example, cache)
    for kept in siblings(network):
        found, expected = (clone(apply(network, space, kept)) for _ in range(2))
        alone = scorer(network, example, Cache(0))
        sharing.recalibrate(found)
        alone.recalibrate(expected)
        for key, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], value), key
        outputs = sharing.outputs(found)
        logits = torch.cat([outputs(0, 4), outputs(4, 11)])
        assert torch.equal(logits, alone.outputs(expected)(0, 11))
    assert cache.hits > 0


def test_other_weights_in_front_share_nothing() -> None:
    network, example = built("resnet20a")
    space = space_of(graph_of(network))
    (kept, *_) = siblings(network)
    cache = Cache()
    made = scorer(network, example, cache)
    for _ in range(3):
        made.outputs(apply(network, space, kept))(0, 11)
    assert cache.hits == 3  # in batches of 4, once it was asked for before and kept
    trained = clone(apply(network, space, kept))
    with torch.no_grad():
        trained.get_parameter("conv1.weight").mul_(1.01)
    found = made.outputs(trained)(0, 11)
    assert cache.hits == 3
    assert torch.equal(found, scorer(network, example, Cache(0)).outputs(trained)(0, 11))


def test_the_cache_stays_within_its_bytes() -> None:
    cache = Cache(100)
    for key in range(5):
        cache.put(key, [torch.zeros(10)], 40)
        assert cache.bytes <= 100
    assert 4 in cache
    assert 3 in cache
    assert 2 not in cache
    cache.get(3)
    cache.put(5, [], 40)
    assert 3 in cache  # used more recently than 4
    assert 4 not in cache
    cache.put(6, [], 101)
    assert 6 not in cache
