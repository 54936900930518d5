"""Exported calls on constants alone: computed while packing, their results stored.

Masks, positions and tables that a network derives from numbers or from its buffers need no
operator of the table. What depends on data, on the batch size or on a parameter is never folded.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, fx, nn

from espalier.format.lift_context import Lifting, Split, Value


def _known(state: Lifting, node: fx.Node) -> bool:
    """Whether a value depends on nothing; buffers and constants are looked up when asked for."""
    if node not in state.known and node in state.names:
        tensor = state.tensors[state.names[node]]
        if not isinstance(tensor, nn.Parameter):
            state.known[node] = tensor
    return node in state.known


def folds(state: Lifting, node: fx.Node, table: Container[object]) -> bool:
    """Whether a call is computed now: the table has no entry for it, or none for these types."""
    target, sources = node.target, node.all_input_nodes
    if not sources or not all(_known(state, source) for source in sources):
        return False
    if not isinstance(target, torch._ops.OpOverload):  # the pieces of a call with several results
        state.known[node] = _computed(state, node)
        return isinstance(state.values.get(sources[0]), Split) is False
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    state.known[node] = _computed(state, node)
    return target not in table or not _floats([state.known[s] for s in (*sources, node)])


def _computed(state: Lifting, node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), state.known.__getitem__)
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call of the graph


def _floats(values: list[Any]) -> bool:
    return all(isinstance(value, Tensor) and value.is_floating_point() for value in values)


def folded(state: Lifting, node: fx.Node) -> Value:
    """The call's result as a stored constant, or several of them."""
    value = state.known[node]
    if isinstance(value, Tensor):
        return state.constant(node, value)
    return Split(
        tuple(lambda user, item=item: state.constant(user, item) for item in value)  # type: ignore[misc]  # mypy does not infer defaults of lambdas
    )
