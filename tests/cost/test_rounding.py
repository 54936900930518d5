"""Rounding goes by the channels of the tensors that layers make, counted in the cut network."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.sketch import Sketch
from espalier.format.build import build
from espalier.format.ir import Batch, Graph, Node, size
from espalier.format.operators import infer
from search.cost import choices_of, without_choice
from search.graph import shrink, space_of
from search.space import Plan, SearchSpace
from search.spec import RoundingSpec
from search.versions import NEWEST, Version
from tests.graph.masking import doubled, random_inputs, random_tensors, sliced
from tests.graph.programs import random_graph


def _stored(graph: Graph, name: str) -> bool:
    """Whether a node's tensor is made from stored tensors alone."""
    node = next(node for node in graph.nodes if node.name == name)
    if node.op in ("input", "module"):
        return False
    return node.op == "tensor" or all(_stored(graph, source) for source in node.inputs)


def _dimension(graph: Graph, node: Node, rank: int) -> int | None:
    """The dimension of a node's tensor that weights make; none if they make none."""
    if node.op == "module":
        kind = graph.modules[node.target or ""].kind
        return (
            1 if kind.startswith("Conv") else rank - 1 if kind in ("Linear", "Embedding") else None
        )
    if node.op == "linear" or (node.op == "matmul" and _stored(graph, node.inputs[1])):
        return rank - 1
    return None


def made(graph: Graph) -> dict[str, int]:
    """Channels of each tensor that a layer makes, from the shapes of the graph as it is."""
    types, found = infer(graph), {}
    for node in graph.nodes:
        dim = _dimension(graph, node, len(types[node.name].shape))
        if dim is not None:
            found[node.name] = size(types[node.name].shape[dim])
    return found


def made_by(space: SearchSpace, plan: Plan) -> dict[str, int]:
    """The same of the network cut to a plan."""
    return made(shrink(space, tuple(tuple(range(width)) for width in plan)))


def _alone(space: SearchSpace, group: int, width: int) -> Plan:
    return (*space.full[:group], width, *space.full[group + 1 :])


def _shares(space: SearchSpace, group: int) -> dict[str, int]:
    """Channels that one channel of the group is in each tensor, by cutting the group to one."""
    full, one = made_by(space, space.full), made_by(space, _alone(space, group, 1))
    lost = space.groups[group].channels - 1
    return {name: (full[name] - one[name]) // lost for name in full if full[name] != one[name]}


def _allowed(shares: dict[str, int], width: int, rounding: RoundingSpec) -> bool:
    widths = [width * share for share in shares.values()]
    assert rounding.multiple != "auto"
    return all(w % rounding.multiple == 0 and w >= rounding.minimum for w in widths)


@pytest.mark.parametrize("rounding", [(2, 1), (4, 5), (3, 1), (6, 5), (1, 3)], ids=str)
def test_the_choices_are_the_definition_and_no_width_is_missing(rounding: tuple[int, int]) -> None:
    asked = RoundingSpec(multiple=rounding[0], minimum=rounding[1])
    wide = cut = 0
    for seed in range(60):
        space = space_of(random_graph(seed, steps=4 + seed % 20, spanning=seed % 2 == 0))
        choices = choices_of(space, asked, NEWEST)
        lone = {item.name for item in without_choice(space, choices, asked, NEWEST)}
        for group, (found, options) in enumerate(zip(space.groups, choices, strict=True)):
            shares = _shares(space, group)
            assert shares, f"seed {seed}: no layer makes {found.name}"
            expected = [w for w in range(1, found.channels) if _allowed(shares, w, asked)]
            assert options == (*expected, found.channels), f"seed {seed}, {found.name}"
            assert (found.name in lone) == (not expected)
            wide += max(shares.values()) > 1
            cut += bool(expected)
    assert wide > 10
    assert cut > 10


def test_every_made_tensor_of_an_allowed_plan_is_a_multiple_or_the_originals() -> None:
    """Where one group makes it; of a tensor that partly stays, the rest is a multiple."""
    chance, cut, alone = random.Random(0), 0, 0
    for seed in range(100, 160):
        space = space_of(random_graph(seed, steps=4 + seed % 20))
        full = made_by(space, space.full)
        shares = [_shares(space, group) for group in range(len(space.groups))]
        for multiple in (2, 4, 8):
            choices = choices_of(space, RoundingSpec(multiple=multiple), NEWEST)
            plan = tuple(chance.choice(options) for options in choices)
            for name, count in made_by(space, plan).items():
                gone = [
                    g for g in range(len(plan)) if plan[g] < space.full[g] and name in shares[g]
                ]
                whole = full[name] - sum(space.full[g] * shares[g][name] for g in gone)
                assert (count - whole) % multiple == 0, f"seed {seed}, {name}"
                cut += bool(gone)
                alone += bool(gone) and not whole
    assert cut > 100
    assert alone > 0.8 * cut


def heads(count: int = 4, width: int = 24) -> Graph:
    """Self-attention of `count` heads of `width` channels each."""
    s = Sketch()
    x = s.linear(s.input(5, 12), 12, path="embed")
    parts = []
    for name in "qkv":
        y = s.linear(x, count * width, path=name)
        parts.append(s.permute(s.reshape(y, Batch(), 5, count, width), 0, 2, 1, 3))
    y = s.op("attention", *parts, scale=None, causal=False, dropout=0.0)
    y = s.reshape(s.permute(y, 0, 2, 1, 3), Batch(), 5, count * width)
    return s.graph(s.linear(y, 3))


def grouped() -> Graph:
    """A convolution of two groups, each of which loses the same of its 12 channels."""
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), 24, path="first")
    return s.graph(s.linear(s.pool(s.conv(x, 24, groups=2, path="second")), 3))


def pixels() -> Graph:
    """Four channels of the first convolution become one of the second's."""
    s = Sketch()
    x = s.op("pixel_shuffle", s.conv(s.input(3, 4, 4), 48, path="first"), factor=2)
    return s.graph(s.linear(s.pool(s.conv(x, 6, path="second")), 3))


def flattened() -> Graph:
    """What a layer reads is not counted, only what one makes."""
    s = Sketch()
    x = s.conv(s.input(3, 3, 3), 12, path="first")
    return s.graph(s.linear(s.reshape(x, Batch(), 12 * 9), 3))


def doubled_depthwise() -> Graph:
    """The first convolution makes one channel of each, the depthwise one two."""
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), 12, path="first")
    return s.graph(s.linear(s.pool(s.conv(x, 24, groups=12, path="depthwise")), 3))


def concatenated() -> Graph:
    """Two layers of widths of their own, read by a third."""
    s = Sketch()
    x = s.input(3, 4, 4)
    both = s.op("cat", s.conv(x, 20, path="first"), s.conv(x, 16, path="second"), dim=1)
    return s.graph(s.linear(s.pool(both), 3))


def split(first: int, second: int) -> Graph:
    """One layer makes the channels of two groups."""
    s = Sketch()
    x = s.conv(s.input(3, 4, 4), first + second, path="first")
    left, right = s.slice(x, 1, 0, first), s.slice(x, 1, first, first + second)
    return s.graph(s.linear(s.pool(left), 3), s.linear(s.pool(s.op("tanh", right)), 3))


EIGHT: dict[str, tuple[Graph, dict[str, tuple[int, ...]]]] = {
    "heads": (heads(), {"embed": (8, 12), "q": (1, 2, 3, 4)}),
    "grouped": (grouped(), {"first": (4, 8, 12), "second": (4, 8, 12)}),
    "pixels": (pixels(), {"first": (2, 4, 6, 8, 10, 12), "second": (6,)}),
    "flattened": (flattened(), {"first": (8, 12)}),
    "depthwise": (doubled_depthwise(), {"first": (8, 12)}),
    "concatenated": (concatenated(), {"first": (8, 16, 20), "second": (8, 16)}),
    "split": (split(16, 20), {"first": (8, 16), "first#2": (8, 16, 20)}),
}


@pytest.mark.parametrize("name", EIGHT)
def test_widths_in_multiples_of_eight(name: str) -> None:
    graph, expected = EIGHT[name]
    space = space_of(graph)
    choices = choices_of(space, RoundingSpec(multiple=8), NEWEST)
    assert dict(zip((group.name for group in space.groups), choices, strict=True)) == expected


def widths_of_a_run(network: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Channels of what each convolution and linear map returns, by its path."""
    found: dict[str, int] = {}

    def note(path: str, dim: int, _layer: object, _inputs: object, result: torch.Tensor) -> None:
        found[path] = result.shape[dim]

    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            dim = 1 if isinstance(layer, nn.Conv2d) else -1
            layer.register_forward_hook(partial(note, path, dim))
    with torch.no_grad():
        network(*inputs)
    return found


@pytest.mark.parametrize("name", EIGHT)
def test_the_cut_network_computes_with_multiples_of_eight(name: str) -> None:
    """Counted in the tensors of a run; a part that stays whole and is no multiple is allowed."""
    graph = doubled(EIGHT[name][0])
    space, tensors = space_of(graph), random_tensors(graph, 0)
    for plan in itertools.product(*choices_of(space, RoundingSpec(multiple=8), NEWEST)):
        kept = tuple(tuple(range(width)) for width in plan)
        small = build(shrink(space, kept), sliced(space, kept, tensors)).eval()
        widths = widths_of_a_run(small, random_inputs(graph, 0))
        for node, _ in graph.calls():
            count = widths[node.target or ""]
            size = space.layer_channels[node.name]
            whole = sum(
                positions * space.full[group]
                for group, positions in size.terms
                if plan[group] == space.full[group]
            )
            assert (count - whole - size.constant) % 8 == 0, f"{node.target} at {plan}"


def test_jobs_of_the_first_version_keep_their_rule() -> None:
    space = space_of(heads())
    first = choices_of(space, RoundingSpec(multiple=8, minimum=2), 1)
    assert first == ((8, 12), (4,))
    assert choices_of(space, RoundingSpec(multiple=2, minimum=2), 1)[1] == (2, 4)
    assert choices_of(space, RoundingSpec(multiple=2, minimum=25), NEWEST)[1] == (2, 3, 4)


def test_groups_without_choice_say_why() -> None:
    def reasons(multiple: int, minimum: int, version: Version = NEWEST) -> dict[str, str]:
        asked = RoundingSpec(multiple=multiple, minimum=minimum)
        space = space_of(heads())
        choices = choices_of(space, asked, version)
        found = without_choice(space, choices, asked, version)
        return {item.name: item.reason for item in found}

    assert not reasons(8, 1)
    assert reasons(128, 1) == {
        "embed": "rounding.multiple 128 takes steps of 128 of them (one is one channel of what "
        "embed makes), which leaves nothing but all",
        "q": "rounding.multiple 128 takes steps of 16 of them (one is 24 channels of what q "
        "makes), which leaves nothing but all",
    }
    assert reasons(1, 73) == dict.fromkeys(
        ("embed", "q"), "rounding.minimum 73 asks for all of them"
    )
    assert reasons(48, 60) == {
        "embed": "rounding.minimum 60 asks for all of them",
        "q": "rounding.multiple 48 takes steps of 2 of them (one is 24 channels of what q "
        "makes), and rounding.minimum 60 leaves none of these",
    }
    assert "takes steps of 8 of them, which leaves" in reasons(8, 1, version=1)["q"]
