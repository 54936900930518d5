"""Exported calls that make a tensor from nothing: their values are stored as constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from espalier.format.lift_context import Handler, Lifting, arguments, unsupported

aten = torch.ops.aten


def _store(state: Lifting, node: fx.Node, value: Tensor) -> str:
    """Keep a tensor under a name that is free, and read it."""
    count = 0
    while f"constant_{count}" in state.tensors:
        count += 1
    name = f"constant_{count}"
    state.tensors[name] = value
    return state.stored_node(node, name)


def _filled(fill: float | None = None) -> Handler:
    """One value everywhere: stored once, expanded to the shape, which may hold the batch."""

    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        value = a["fill_value"] if fill is None else fill
        if not isinstance(value, int | float):
            raise unsupported(node, "is filled with a number that depends on the batch size")
        kind = state.type_of(node)
        single = torch.full((1,) * len(kind.shape), value, dtype=node.meta["val"].dtype)
        name = _store(state, node, single)
        if kind.shape == tuple(single.shape):
            return name
        return state.emit(node, "expand", (name,), {"shape": kind.shape})

    return lift


def _computed(state: Lifting, node: fx.Node) -> str:
    """A range: computed here, stored whole."""
    if node.all_input_nodes or not callable(node.target):
        raise unsupported(node, "depends on the batch size")
    keywords = {**node.kwargs, "device": "cpu"}
    keywords.pop("pin_memory", None)
    return _store(state, node, node.target(*node.args, **keywords))


CONSTANT_CALLS: Mapping[Any, Handler] = {
    aten.zeros.default: _filled(0),
    aten.zeros_like.default: _filled(0),
    aten.new_zeros.default: _filled(0),
    aten.ones.default: _filled(1),
    aten.ones_like.default: _filled(1),
    aten.new_ones.default: _filled(1),
    aten.full.default: _filled(),
    aten.full_like.default: _filled(),
    aten.new_full.default: _filled(),
    aten.arange.default: _computed,
    aten.arange.start: _computed,
    aten.arange.start_step: _computed,
    aten.linspace.default: _computed,
}
