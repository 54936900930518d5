"""Solved weights against torch's own gradients, and against networks that lose nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from espalier.format.build import build, graph_of, tensors_of
from espalier.format.lift import lift
from search.graph import space_of
from search.pruning import apply, apply_further
from search.pruning.positions import alive
from search.reconstruction import Parallel, sequential
from search.reconstruction.layers import Layer, layers
from search.reconstruction.order import ordered
from search.reconstruction.sequential import _Sequential
from search.reconstruction.walk import Walk
from search.space import Kept, SearchSpace
from tests.pruning.cases import case

RIDGE = 1e-9
EXAMPLES = 16
KINDS = (
    *("resnet18", "vgg", "mobilenet_v2_bn", "densenet", "shufflenet_v1", "shufflenet_v2", "unet"),
    *("squeeze_excite", "conv1d", "mlp", "vit_fused", "vit_multihead", "convnext"),
)


class Recorder(fx.Interpreter):
    """Keeps every node's value."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)

    def values(self, x: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            self.run(x)
        return {node.name: value for node, value in self.env.items()}


def inputs(example: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(EXAMPLES, *example.shape[1:], generator=generator, dtype=example.dtype)


def batches(x: Tensor) -> list[Tensor]:
    return [x[at : at + 7] for at in range(0, len(x), 7)]


def some(space: SearchSpace, seed: int) -> Kept:
    """Between a third and all of each group's channels."""
    rng = np.random.default_rng(seed)
    kept = []
    for group in space.groups:
        width = int(rng.integers(max(1, group.channels // 3), group.channels + 1))
        chosen = rng.choice(group.channels, width, replace=False)
        kept.append(tuple(sorted(int(index) for index in chosen)))
    return tuple(kept)


def run(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output with another weight, without its bias, by torch."""
    if not layer.kernel:
        return nn.functional.linear(x, weight)
    function = (nn.functional.conv1d, nn.functional.conv2d)[len(layer.kernel) - 1]
    return function(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def steepness(layer: Layer, x: Tensor, weight: Tensor, wanted: Tensor) -> float:
    """Size of the gradient of the squared error in the weight, the best constant added."""
    weight = weight.clone().requires_grad_()
    error = run(layer, x, weight) - wanted
    if layer.carries_constant:
        dims = [dim for dim in range(error.dim()) if dim != layer.channel_dim % error.dim()]
        error = error - error.mean(dims, keepdim=True)
    (gradient,) = torch.autograd.grad(error.square().mean(), weight)
    return float(gradient.norm())


@pytest.mark.parametrize("name", KINDS)
def test_parallel_leaves_no_gradient_on_the_original_inputs(name: str) -> None:
    found = case(name)
    x, kept = inputs(found.example), some(found.space, 1)
    cut = apply(found.network, found.space, kept)
    solved = Parallel(found.network, found.space, batches(x), RIDGE).reconstruct(cut, kept)
    left, then = alive(found.space, kept), Recorder(found.network).values(x)
    checked = 0
    for layer in layers(graph_of(solved)):
        mask = left.get((layer.weight, 1))
        before, after = tensors_of(cut)[layer.weight], tensors_of(solved)[layer.weight]
        if mask is None:
            assert after.data_ptr() == before.data_ptr()
            continue
        source, wanted = then[layer.source], then[layer.node]
        repeats = source.shape[layer.channel_dim] // len(mask)
        if layer.groups > 1 and graph_of(solved).modules != graph_of(found.network).modules:
            continue  # whole groups of a convolution may be gone, too
        there = torch.from_numpy(np.tile(mask, repeats).nonzero()[0])
        source = source.index_select(layer.channel_dim, there)
        rows = left.get((layer.weight, 0))
        if rows is not None:
            kept_rows = torch.from_numpy(rows.nonzero()[0])
            wanted = wanted.index_select(layer.channel_dim, kept_rows)
        flat = steepness(layer, source, after, wanted)
        assert flat <= 1e-5 * steepness(layer, source, before, wanted) + 1e-9
        checked += 1
    assert checked


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2_bn", "shufflenet_v1", "vit_fused", "conv1d"]
)
def test_sequential_leaves_no_gradient_on_its_own_inputs(name: str) -> None:
    found = case(name)
    x, kept = inputs(found.example), some(found.space, 2)
    cut = apply(found.network, found.space, kept)
    solved = sequential(found.network, cut, found.space, kept, batches(x), RIDGE, passes=0).network
    left = alive(found.space, kept)
    then, now = Recorder(found.network).values(x), Recorder(solved).values(x)
    own = tensors_of(solved)
    order = ordered(found.network)

    def rows(layer: Layer, value: Tensor) -> Tensor:
        mask = left.get((layer.weight, 0))
        if mask is None:
            return value
        return value.index_select(layer.channel_dim, torch.from_numpy(mask.nonzero()[0]))

    for layer in layers(graph_of(solved)):
        if torch.equal(own[layer.weight], tensors_of(cut)[layer.weight]):
            continue
        wanted = rows(layer, then[layer.node])
        added = layer.residual
        if added is not None and order.index(added.other) < order.index(layer.node):
            if then[added.other].shape != then[layer.node].shape:
                continue
            gap = rows(layer, then[added.other]) - now[added.other]
            if layer.norm is not None:
                norm = solved.get_submodule(layer.norm)
                assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
                assert norm.running_var is not None
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                gap = gap / gain.detach().view(1, -1, *(1,) * (gap.dim() - 2))
            wanted = wanted + gap
        source = now[layer.source]
        flat = steepness(layer, source, own[layer.weight], wanted)
        start = steepness(layer, source, tensors_of(cut)[layer.weight], wanted)
        assert flat <= 1e-4 * start + 1e-9


@pytest.mark.parametrize("name", KINDS)
def test_the_order_lets_each_layer_see_what_is_added_to_its_output(name: str) -> None:
    graph = graph_of(case(name).network)
    order = {step: at for at, step in enumerate(ordered(case(name).network))}
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert len(order) >= len(inputs)
    for step, reads in inputs.items():
        assert all(order[read] < order[step] for read in reads if read in order)

    def needs(step: str) -> set[str]:
        return {step}.union(*(needs(read) for read in inputs.get(step, ())))

    sums = [layer for layer in layers(graph) if layer.residual is not None]
    made = {layer.node for layer in sums}
    for layer in sums:
        assert layer.residual is not None
        # Of two solved layers that are added to each other only one can come last.
        if not made & needs(layer.residual.other) - needs(layer.source):
            assert order[layer.residual.other] < order[layer.node]


def test_layers_whose_weights_are_tensors_of_their_own_are_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What later layers are solved for is what the finished network computes."""
    found, seen = case("vit_multihead"), {}
    graph = graph_of(found.network)
    own = {layer.weight for layer in layers(graph) if layer.weight in graph.stored}
    own = {weight for weight in own if weight.endswith("in_proj_weight")}
    assert own
    kept = tuple(
        tuple(range(group.channels))
        if any(member.tensor in own for member in group.members)
        else tuple(range(group.channels // 2))
        for group in found.space.groups
    )
    cut = apply(found.network, found.space, kept)
    follow = _Sequential._follow

    def recorded(self: _Sequential, name: str, then: Walk, now: Walk) -> None:
        follow(self, name, then, now)
        seen[name] = now.values(name)[0]

    monkeypatch.setattr(_Sequential, "_follow", recorded)
    x = inputs(found.example)
    solved = sequential(found.network, cut, found.space, kept, [x], RIDGE).network
    values = Recorder(solved).values(x)
    for layer in layers(graph):
        torch.testing.assert_close(seen[layer.node], values[layer.node])


class Doubled(nn.Module):
    """Every second channel is the one before it, scaled: half of them say everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.strided = nn.Conv2d(8, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.hidden, self.out = nn.Linear(8, 8), nn.Linear(8, 5)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape))
            for layer in (self.stem, self.strided, self.depthwise, self.pointwise, self.hidden):
                layer.weight[1::2] = layer.weight[::2]
                if layer.bias is not None:
                    layer.bias[1::2] = layer.bias[::2]
            for tensor in (self.norm.weight, self.norm.bias):
                tensor[1::2] = tensor[::2]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.strided(self.stem(x).relu())).relu()
        x = self.pointwise(self.depthwise(x).relu()).relu().mean((2, 3))
        y: Tensor = self.out(self.hidden(x).relu())
        return y


@pytest.mark.parametrize("way", ["parallel", "sequential"])
def test_what_is_redundant_is_lost_without_a_trace(way: str) -> None:
    torch.manual_seed(0)
    original = Doubled().double().eval()
    graph, tensors = lift(original, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    network = build(graph, tensors)
    space = space_of(graph)
    kept = tuple(tuple(range(0, group.channels, 2)) for group in space.groups)
    x = torch.randn(200, 3, 8, 8, dtype=torch.float64)
    cut = apply(network, space, kept)
    if way == "parallel":
        solved = Parallel(network, space, batches(x), 1e-12).reconstruct(cut, kept)
    else:
        solved = sequential(network, cut, space, kept, batches(x), 1e-12).network
    unseen = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(cut(unseen), original(unseen), rtol=0.01)
        torch.testing.assert_close(solved(unseen), original(unseen), rtol=1e-5, atol=1e-5)


class Rectified(nn.Module):
    """What a layer gives is seen through an activation, behind a norm and a sum or not."""

    def __init__(self, activation: nn.Module, *, norm: bool, skip: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.layer = nn.Conv2d(12, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12) if norm else nn.Identity()
        self.activation, self.skip, self.out = activation, skip, nn.Linear(12, 5)
        for tensor in self.norm.buffers():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        before = self.stem(x)
        x = self.norm(self.layer(before.relu()))
        x = self.activation(x + before if self.skip else x)
        y: Tensor = self.out(x.mean((2, 3)))
        return y


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.2, 0.3)])
@pytest.mark.parametrize(("norm", "skip"), [(False, False), (True, False), (True, True)])
def test_what_an_activation_cuts_off_is_not_asked_for(
    activation: nn.Module, norm: bool, skip: bool
) -> None:
    torch.manual_seed(1)
    original = Rectified(activation, norm=norm, skip=skip).eval()
    x = 2 * torch.randn(96, 3, 8, 8)
    graph, tensors = lift(original, x[:2])
    network, space = build(graph, tensors), space_of(graph)
    kept = tuple(tuple(range(0, group.channels, 2)) for group in space.groups)
    cut = apply(network, space, kept)
    mask = alive(space, kept).get(("layer.weight", 0))
    left = slice(None) if mask is None else torch.from_numpy(mask)
    (mean,) = [node for node in graph.nodes if node.op == "mean"]

    def error(passes: int) -> float:
        """Mean square behind the activation."""
        solved = sequential(network, cut, space, kept, batches(x), RIDGE, passes=passes).network
        then, now = (Recorder(net).values(x)[mean.inputs[0]] for net in (network, solved))
        return float((then[:, left] - now).square().mean())

    errors = [error(passes) for passes in (0, 1, 3)]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("way", ["parallel", "sequential"])
def test_arguments_are_not_changed(way: str) -> None:
    found = case("resnet20a")
    x, kept = inputs(found.example), some(found.space, 3)
    cut = apply(found.network, found.space, kept)
    held = [{n: t.clone() for n, t in tensors_of(net).items()} for net in (found.network, cut)]
    if way == "parallel":
        Parallel(found.network, found.space, [x]).reconstruct(cut, kept)
    else:
        sequential(found.network, cut, found.space, kept, [x])
    for net, before in zip((found.network, cut), held, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(net).items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2_bn"])
def test_weights_are_laid_out_as_new_ones_are(name: str) -> None:
    """Strides that claim channels last for a kernel of one made torch's backward corrupt memory."""
    found = case(name)
    kept = some(found.space, 5)
    cut = apply(found.network, found.space, kept)
    solved = Parallel(found.network, found.space, [inputs(found.example)]).reconstruct(cut, kept)
    for tensor in tensors_of(solved).values():
        assert tensor.stride() == torch.empty(tensor.shape).stride()


def test_a_child_of_an_untrained_parent_is_the_same_as_from_the_original() -> None:
    """Without a change of weights in between, two cuts solved one after the other are one."""
    found = case("vgg")
    x, child = inputs(found.example), some(found.space, 4)
    parent = tuple(
        tuple(sorted({*channels, *range(group.channels // 2)}))
        for group, channels in zip(found.space.groups, child, strict=True)
    )
    parallel = Parallel(found.network, found.space, [x], RIDGE)
    first = parallel.reconstruct(apply(found.network, found.space, parent), parent)
    second = apply_further(first, found.space, parent, child)
    twice = parallel.reconstruct(second, child, first, parent)
    once = parallel.reconstruct(apply(found.network, found.space, child), child)
    with torch.no_grad():
        torch.testing.assert_close(twice(x), once(x), rtol=1e-4, atol=1e-5)
