"""Where a network makes probabilities of class scores, and what it is without that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from espalier.format.build import build
from espalier.format.lift import lift
from search.graph import Head, head_of, space_of, without_head

End = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A convolution of 6 channels on 5x5 images, 4 classes, and some end."""

    def __init__(self, end: End) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.classes = nn.Conv2d(6, 4, 3)
        self.end = end

    def scores(self, x: Tensor) -> Tensor:
        found: Tensor = self.classes(torch.relu(self.conv(x)))  # (n, 4, 1, 1)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.scores(x))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


DROPOUT = nn.Dropout(0.5).eval()
ENDS: dict[str, tuple[End, str]] = {
    "softmax": (lambda x: flat(x).softmax(1), "softmax"),
    "last dimension": (lambda x: flat(x).softmax(-1), "softmax"),
    "before flatten": (lambda x: x.softmax(1).flatten(1), "softmax"),
    "before squeeze": (lambda x: x.softmax(1).squeeze(3).squeeze(2), "softmax"),
    "module": (lambda x: nn.Softmax(dim=1)(flat(x)), "softmax"),
    "harmless": (lambda x: flat(DROPOUT(x.softmax(1).contiguous())), "softmax"),
    "log": (lambda x: flat(x).log_softmax(1), "log_softmax"),
    "log of softmax": (lambda x: flat(x).softmax(1).log(), "log_softmax"),
    "log of reshaped": (lambda x: flat(x.softmax(1)).log(), "log_softmax"),
    "sigmoid": (lambda x: flat(x).sigmoid(), "sigmoid"),
    "sigmoid before flatten": (lambda x: flat(torch.sigmoid(x)), "sigmoid"),
    "log of sigmoid": (lambda x: functional.logsigmoid(flat(x)), "logsigmoid"),
    "exponential of logarithms": (lambda x: flat(x).log_softmax(1).exp(), "softmax"),
    "exponential of sigmoid": (lambda x: functional.logsigmoid(flat(x)).exp(), "sigmoid"),
    "twice": (lambda x: flat(x).softmax(1).softmax(1), "softmax"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_head_is_found_and_left_out(name: str) -> None:
    end, kind = ENDS[name]
    torch.manual_seed(0)
    network = Network(end).eval()
    x = torch.randn(3, 2, 5, 5)
    graph, tensors = lift(network, x)
    head = head_of(graph)
    assert head is not None
    assert head.kind == kind
    assert head.independent == ("sigmoid" in kind)
    bare = without_head(graph, head)
    wanted = flat(network.scores(x))
    if name == "twice":
        wanted = wanted.softmax(1)  # what it was trained to yield before the last one
    found = build(bare, tensors)(x)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(build(graph, tensors)(x), network(x))
    assert (bare.stored, bare.modules, bare.inputs) == (graph.stored, graph.modules, graph.inputs)
    whole, part = space_of(graph), space_of(bare)
    assert (whole.groups, whole.stored_shapes) == (part.groups, part.stored_shapes)


@pytest.mark.parametrize(
    "end",
    [
        flat,
        lambda x: x.flatten(1).view(-1, 2, 2).softmax(2).flatten(1),  # over two classes each
        lambda x: x.softmax(2).flatten(1),  # over one position
        lambda x: flat(x).softmax(1)[:, :3],  # not all of them
        lambda x: flat(x).softmax(1) * 2.0,
        lambda x: flat(x).softmax(1).relu(),
        lambda x: torch.cat([flat(x).softmax(1), flat(x)], 1),
        lambda x: flat(x).softmax(1).exp(),
        lambda x: flat(x).log_softmax(1).log(),
        lambda x: flat(x).tanh(),
    ],
)
def test_other_ends_are_class_scores(end: End) -> None:
    graph, _ = lift(Network(end).eval(), torch.randn(3, 2, 5, 5))
    assert head_of(graph) is None


def test_several_outputs_have_none() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x).softmax(1), self.second(x).softmax(1)

    assert head_of(lift(Two().eval(), torch.randn(2, 3))[0]) is None


def test_a_head_of_the_input_itself_is_none() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1)

    assert head_of(lift(Bare().eval(), torch.randn(2, 3))[0]) is None


def test_a_head_names_its_nodes() -> None:
    graph, _ = lift(Network(ENDS["log of reshaped"][0]).eval(), torch.randn(3, 2, 5, 5))
    ops = {node.name: node.op for node in graph.nodes}
    head = head_of(graph)
    assert isinstance(head, Head)
    assert (ops[head.first], ops[head.last]) == ("softmax", "log")
