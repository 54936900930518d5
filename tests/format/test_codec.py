"""Graphs as text: written and read back they are equal, and the tables cover one set."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espalier.format.build import KINDS, build
from espalier.format.build_operators import FUNCTIONS
from espalier.format.check import CHOICES, ITEM_BYTES
from espalier.format.codec import graph_from_json, graph_to_json
from espalier.format.ir import Attr, Batch, Graph, Module, Node, Stored, TensorType
from espalier.format.lift import lift
from espalier.format.operators import MODULES, OPERATORS, infer
from espalier.format.reserved import RESERVED
from tests.networks import ZOO

_UNARY = ("relu", "sigmoid", "tanh", "abs", "neg", "silu")
_numbers = st.floats(allow_nan=False, width=32) | st.sampled_from([math.inf, -math.inf])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random chains with branches: arithmetic, activations, permutations, slices, a linear map."""
    width = draw(st.integers(1, 6))
    nodes = [Node("x", "input")]
    shapes: dict[str, tuple[int | Batch, ...]] = {"x": (Batch(1), width)}
    modules: dict[str, Module] = {}
    stored: dict[str, Stored] = {}
    for index in range(draw(st.integers(1, 12))):
        name, source = f"n{index}", draw(st.sampled_from(list(shapes)))
        shape, last = shapes[source], shapes[source][-1]
        assert isinstance(last, int)
        kind = draw(st.sampled_from(["unary", "clamp", "scalar", "add", "slice", "cat", "linear"]))
        attrs: dict[str, Attr] = {}
        op, target = kind, None
        inputs: tuple[str, ...] = (source,)
        if kind == "unary":
            op = draw(st.sampled_from(_UNARY))
        elif kind == "clamp":
            attrs = {"min": draw(_numbers | st.none()), "max": draw(_numbers)}
        elif kind == "scalar":
            op = draw(st.sampled_from(["add", "mul", "sub"]))
            attrs = {"scalar": draw(_numbers), "reversed": draw(st.booleans())}
        elif kind == "add":
            inputs, attrs = (source, source), {"scalar": None, "reversed": False}
        elif kind == "slice":
            stop = draw(st.integers(1, last))
            attrs, shape = {"dim": 1, "start": 0, "stop": stop, "step": 1}, (Batch(1), stop)
        elif kind == "cat":
            inputs, attrs, shape = (source, source), {"dim": 1}, (Batch(1), 2 * last)
        else:
            out = draw(st.integers(1, 4))
            op, target, shape = "module", f"layers.{index}.linear", (Batch(1), out)
            modules[target] = Module(
                "Linear", {"in_features": last, "out_features": out, "bias": True}
            )
            stored[f"{target}.weight"] = Stored((out, last), "float32", True)
            stored[f"{target}.bias"] = Stored((out,), "float32", True)
        nodes.append(Node(name, op, inputs, attrs, target))
        shapes[name] = shape
    inputs_ = {"x": TensorType((Batch(1), width))}
    return Graph(tuple(nodes), modules, stored, inputs_, (nodes[-1].name,))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_round_trip(graph: Graph) -> None:
    text = graph_to_json(graph)
    assert graph_from_json(text) == graph
    assert graph_to_json(graph_from_json(text.encode())) == text


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_what_is_inferred_is_what_torch_computes(graph: Graph) -> None:
    tensors = {name: torch.randn(stored.shape) for name, stored in graph.stored.items()}
    width = graph.inputs["x"].shape[1]
    assert isinstance(width, int)
    found = build(graph, tensors)(torch.randn(3, width))
    assert tuple(found.shape) == (3, *infer(graph)[graph.outputs[0]].shape[1:])


@pytest.mark.parametrize("name", ["resnet20a", "vit_multihead", "unet"])
def test_real_graphs_round_trip(name: str) -> None:
    network, example = ZOO[name]()
    graph, _ = lift(network, example)
    assert graph_from_json(graph_to_json(graph)) == graph


def test_the_tables_cover_one_set() -> None:
    assert set(FUNCTIONS) == set(OPERATORS)
    assert set(KINDS) == set(MODULES)
    texts = {
        (name, attr)
        for table in (
            {name: operator.attrs for name, operator in OPERATORS.items()},
            {name: kind.args for name, kind in MODULES.items()},
        )
        for name, attrs in table.items()
        for attr, kind in attrs.items()
        if kind == "str"
    }
    assert set(CHOICES) == texts
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in ITEM_BYTES)


def test_names_of_torch_are_reserved() -> None:
    taken = set(dir(nn.Module())) | set(vars(nn.Module()))  # what is patched in begins with "___"
    assert {n for n in taken if (n[:2], n[-2:]) != ("__", "__") and n[:3] != "___"} == RESERVED
