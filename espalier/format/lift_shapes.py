"""Exported calls that only move elements: reshapes, slices, splits, concatenations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from espalier.format.ir import Batch, Dim
from espalier.format.lift_context import (
    Handler,
    Lifting,
    Split,
    Value,
    arguments,
    source_line,
    unsupported,
)

aten = torch.ops.aten


def _reshape(state: Lifting, node: fx.Node) -> str:
    """Every view becomes a reshape to the shape that export inferred, written out."""
    source = state.read(node.args[0], node)
    shape = state.shape(node)
    return source if shape == state.shape(node.args[0]) else state.reshape(node, source, shape)  # type: ignore[arg-type]  # `read` has checked it


def _squeeze(state: Lifting, node: fx.Node) -> str:
    """Dimensions of one are dropped, but never the batch, which torch drops where it is one."""
    a = arguments(node)
    shape = state.shape(a["self"])
    given = a.get("dim")
    listed = range(len(shape)) if given is None else [given] if isinstance(given, int) else given
    if any(shape[dim] == Batch(1) for dim in listed):
        note = (
            f"operator {node.target} drops the batch dimension of a single example; the packed "
            "network keeps it: name the dimensions to squeeze"
        )
        state.notes.append((note, source_line(node)))
    return _reshape(state, node)


def _same(state: Lifting, node: fx.Node) -> str:
    """Changes nothing: an alias, or a conversion to the element type that is there already."""
    source = node.args[0]
    if isinstance(source, fx.Node) and state.type_of(source) != state.type_of(node):
        raise unsupported(node, "changes the element type, which is not in the operator table")
    return state.read(source, node)


def _permute(order: Callable[[Mapping[str, Any], int], list[int]]) -> Handler:
    def lift(state: Lifting, node: fx.Node) -> str:
        source = state.read(node.args[0], node)
        rank = len(state.shape(node))
        dims = tuple(dim % rank for dim in order(arguments(node), rank))
        return state.emit(node, "permute", (source,), {"dims": dims})

    return lift


def _swap(first: str, second: str) -> Callable[[Mapping[str, Any], int], list[int]]:
    def order(a: Mapping[str, Any], rank: int) -> list[int]:
        dims = list(range(rank))
        i, j = a[first] % rank, a[second] % rank
        dims[i], dims[j] = dims[j], dims[i]
        return dims

    return order


def _moved(a: Mapping[str, Any], rank: int) -> list[int]:
    """`movedim`: the named dimensions go to their places, the others keep their order."""
    source, target = a["source"], a["destination"]
    pairs = (
        [(source, target)] if isinstance(source, int) else list(zip(source, target, strict=True))
    )
    placed = {to % rank: origin % rank for origin, to in pairs}
    others = iter(dim for dim in range(rank) if dim not in placed.values())
    return [placed[i] if i in placed else next(others) for i in range(rank)]


def _expand(state: Lifting, node: fx.Node) -> str:
    source, shape = state.read(node.args[0], node), state.shape(node)
    if isinstance(node.args[0], fx.Node) and shape == state.shape(node.args[0]):
        return source
    return state.emit(node, "expand", (source,), {"shape": shape})


def _repeat(state: Lifting, node: fx.Node) -> str:
    """Repeats of single elements are an expansion, others a concatenation with itself."""
    a = arguments(node)
    name = state.read(a["self"], node)
    source, shape = state.shape(a["self"]), state.shape(node)
    lead = len(shape) - len(source)
    current: tuple[Dim, ...] = (1,) * lead + source
    if lead:
        name = state.reshape(node, name, current)
    for at, (dim, count) in enumerate(zip(current, a["repeats"], strict=True)):
        if dim == 1 or count == 1:
            continue
        if not isinstance(dim, int) or not isinstance(count, int):
            raise unsupported(node, "repeats the batch")
        name = state.emit(node, "cat", (name,) * count, {"dim": at})
        current = (*current[:at], dim * count, *current[at + 1 :])
    return name if current == shape else state.emit(node, "expand", (name,), {"shape": shape})


def _join(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    dim = a["dim"] % len(state.shape(node))
    inputs = tuple(state.read(item, node) for item in a["tensors"])
    return inputs[0] if len(inputs) == 1 else state.emit(node, "cat", inputs, {"dim": dim})


def _stack(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    shape = state.shape(node)
    dim = a["dim"] % len(shape)
    single = (*shape[:dim], 1, *shape[dim + 1 :])
    parts = tuple(state.reshape(node, state.read(item, node), single) for item in a["tensors"])
    return parts[0] if len(parts) == 1 else state.emit(node, "cat", parts, {"dim": dim})


def _cut(
    state: Lifting,
    node: fx.Node,
    source: str,
    dim: int,
    size: Dim,
    start: int,
    stop: int,
    step: int,
) -> str:
    if (start, stop, step) == (0, size, 1):
        return source
    attrs = {"dim": dim, "start": start, "stop": stop, "step": step}
    return state.emit(node, "slice", (source,), attrs)


def _slice(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    source = state.read(a["self"], node)
    shape = state.shape(a["self"])
    dim = a["dim"] % len(shape)
    size = shape[dim]
    if shape == state.shape(node) and a["step"] == 1:
        return source
    bounds = (a["start"], a["end"])
    if isinstance(size, Batch) or not all(b is None or isinstance(b, int) for b in bounds):
        raise unsupported(node, "slices the batch, or by the batch size")
    start, stop, step = slice(bounds[0], bounds[1], a["step"]).indices(size)
    return _cut(state, node, source, dim, size, start, stop, step)


def _narrow(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    shape = state.shape(a["self"])
    dim = a["dim"] % len(shape)
    size, start, length = shape[dim], a["start"], a["length"]
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(length, int)):
        raise unsupported(node, "slices the batch, or by the batch size")
    start %= size
    return _cut(state, node, state.read(a["self"], node), dim, size, start, start + length, 1)


def _select(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    return _pick(state, node, state.read(a["self"], node), a["self"], a["dim"], a["index"])


def _pick(state: Lifting, node: fx.Node, source: str, of: fx.Node, dim: int, index: object) -> str:
    shape = state.shape(of)
    dim %= len(shape)
    size = shape[dim]
    if not isinstance(size, int) or not isinstance(index, int):
        raise unsupported(node, "selects from the batch, or by the batch size")
    return state.emit(node, "select", (source,), {"dim": dim, "index": index % size})


def _pieces(state: Lifting, node: fx.Node) -> Split:
    """Chunks and splits: each piece is a slice, made when it is read."""
    a = arguments(node)
    of = a["self"]
    source, shape = state.read(of, node), state.shape(of)
    dim = a["dim"] % len(shape)
    size = shape[dim]
    if not isinstance(size, int):
        raise unsupported(node, "splits the batch")
    makers: list[Callable[[fx.Node], str]] = []
    start = 0
    for piece in node.meta["val"]:
        stop = start + int(piece.shape[dim])

        def make(user: fx.Node, start: int = start, stop: int = stop) -> str:
            return _cut(state, user, source, dim, size, start, stop, 1)

        makers.append(make)
        start = stop
    return Split(tuple(makers))


def _unbind(state: Lifting, node: fx.Node) -> Split:
    a = arguments(node)
    of = a["self"]
    source = state.read(of, node)

    def maker(index: int) -> Callable[[fx.Node], str]:
        return lambda user: _pick(state, user, source, of, a["dim"], index)

    return Split(tuple(maker(index) for index in range(len(node.meta["val"]))))


def _getitem(state: Lifting, node: fx.Node) -> Value:
    source, index = node.args
    found = state.values.get(source) if isinstance(source, fx.Node) else None
    if isinstance(found, Split) and isinstance(index, int):
        return found.make[index](node)
    if isinstance(found, str) and index == 0:  # the values of a pooling that also gives indices
        return found
    return None  # the indices of a pooling: refused only where something reads them


def _roll(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    rank = len(state.shape(node))
    if not a["dims"] or not all(isinstance(shift, int) for shift in a["shifts"]):
        raise unsupported(node, "needs dimensions, and shifts that are numbers")
    attrs = {"shifts": tuple(a["shifts"]), "dims": tuple(dim % rank for dim in a["dims"])}
    return state.emit(node, "roll", (state.read(a["self"], node),), attrs)


def _flip(state: Lifting, node: fx.Node) -> str:
    a = arguments(node)
    dims = tuple(dim % len(state.shape(node)) for dim in a["dims"])
    return state.emit(node, "flip", (state.read(a["self"], node),), {"dims": dims})


def _interleave(state: Lifting, node: fx.Node) -> str:
    """`channel_shuffle`, as the reshapes it is."""
    a = arguments(node)
    n, c, *rest = state.shape(node)
    if not isinstance(c, int):
        raise unsupported(node, "shuffles the batch")
    split = (n, a["groups"], c // a["groups"], *rest)
    name = state.reshape(node, state.read(a["self"], node), split)
    order = (0, 2, 1, *range(3, len(split)))
    name = state.emit(node, "permute", (name,), {"dims": order})
    return state.reshape(node, name, (n, c, *rest))


_VIEWS = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view_as.default,
    aten.reshape_as.default,
)
_ALIASES = (
    aten.alias.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
    aten._to_copy.default,
    aten.lift_fresh_copy.default,
    aten.positive.default,
)

SHAPE_CALLS: Mapping[Any, Handler] = {
    **dict.fromkeys(_VIEWS, _reshape),
    **dict.fromkeys(_ALIASES, _same),
    **dict.fromkeys((aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims), _squeeze),
    aten.permute.default: _permute(lambda a, _: a["dims"]),
    aten.transpose.int: _permute(_swap("dim0", "dim1")),
    aten.swapaxes.default: _permute(_swap("axis0", "axis1")),
    aten.swapdims.default: _permute(_swap("dim0", "dim1")),
    aten.t.default: _permute(lambda _, rank: list(range(rank))[::-1]),
    aten.numpy_T.default: _permute(lambda _, rank: list(range(rank))[::-1]),
    aten.mT.default: _permute(lambda _, rank: [*range(rank - 2), rank - 1, rank - 2]),
    aten.movedim.int: _permute(_moved),
    aten.movedim.intlist: _permute(_moved),
    aten.expand.default: _expand,
    aten.expand_as.default: _expand,
    aten.broadcast_to.default: _expand,
    aten.repeat.default: _repeat,
    aten.cat.default: _join,
    aten.concat.default: _join,
    aten.stack.default: _stack,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.chunk.default: _pieces,
    aten.split.Tensor: _pieces,
    aten.split_with_sizes.default: _pieces,
    aten.split.sizes: _pieces,
    aten.tensor_split.sections: _pieces,
    aten.unbind.int: _unbind,
    operator.getitem: _getitem,
    aten.roll.default: _roll,
    aten.flip.default: _flip,
    aten.channel_shuffle.default: _interleave,
}
