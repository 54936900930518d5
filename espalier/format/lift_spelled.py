"""Exported calls that torch itself spells out in others: traced alone, and translated as those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from espalier.format.lift_context import Lifting, Value, made, unsupported

aten = torch.ops.aten

SPELLED_OUT: frozenset[Any] = frozenset(
    {
        aten.einsum.default,
        aten.tile.default,
        aten.tensor_split.indices,
        aten.true_divide.Tensor,
        aten.true_divide.Scalar,
        aten.repeat_interleave.self_int,
    }
)
"""Calls without a kernel of their own: torch always computes them through others."""

Translate = Callable[[Lifting, fx.Node], Value]


def spell_out(state: Lifting, node: fx.Node, translate: Translate) -> Value:
    """Translate the calls that `node` consists of; they are named after it and say its line.

    Raises:
        UnsupportedOperator: it consists of calls that are not carried either.
    """
    sources = node.all_input_nodes
    values = [source.meta["val"] for source in sources]
    modes = [value.fake_mode for value in values if isinstance(value, FakeTensor)]
    if not modes or not callable(node.target):
        raise unsupported(node)

    def call(*given: Any) -> object:
        known = dict(zip(sources, given, strict=True))
        args = fx.map_arg(node.args, known.__getitem__)
        kwargs = fx.map_arg(node.kwargs, known.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # checked above

    with modes[0]:
        inner: fx.Graph = make_fx(call, tracing_mode="real")(*values).graph
    inputs = iter(sources)
    result: Value = None
    for step in inner.nodes:
        if step.op == "placeholder":
            source = next(inputs)
            state.values[step] = state.values.get(source)
            if isinstance(source.meta["val"], Tensor):
                state.values[step] = state.read(source, node)
            continue
        if step.op == "output":
            result = _result(state, step.args[0])
            continue
        if step.target is node.target:
            raise unsupported(node)
        for key in ("stack_trace", "nn_module_stack"):
            step.meta[key] = node.meta.get(key)
        state.values[step] = translate(state, step)
    return result


def _result(state: Lifting, value: Any) -> Value:
    """One tensor, or several that were made already."""
    if isinstance(value, fx.Node):
        return state.values[value]
    return made(tuple(str(state.values[item]) for item in value))
