"""Exported calls that make a tensor from nothing: their values are stored as constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from espalier.format.ir import Batch
from espalier.format.lift_context import Handler, Lifting, arguments, unsupported

aten = torch.ops.aten


def _filled(fill: float | None = None) -> Handler:
    """One value everywhere: stored once, expanded to the shape, which may hold the batch."""

    def lift(state: Lifting, node: fx.Node) -> str:
        a = arguments(node)
        value = a["fill_value"] if fill is None else fill
        if not isinstance(value, int | float):
            raise unsupported(node, "is filled with a number that depends on the batch size")
        kind = state.type_of(node)
        single = torch.full((1,) * len(kind.shape), value, dtype=node.meta["val"].dtype)
        if not any(isinstance(dim, Batch) for dim in kind.shape):
            state.known[node] = single.expand([int(dim) for dim in node.meta["val"].shape])
        name = state.constant(node, single)
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
    state.known[node] = node.target(*node.args, **keywords)
    return state.constant(node, state.known[node])


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
    aten.eye.default: _computed,
    aten.eye.m: _computed,
    aten.scalar_tensor.default: _computed,
}
