"""The graph after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from espalier.format.ir import Attr, Batch, Graph
from search.space import Affine, Constant, Extent, Kept, Plan, SearchSpace


def _at(value: Constant, plan: Plan) -> Attr:
    if isinstance(value, Affine):
        return value.at(plan)
    if isinstance(value, float):
        return value
    return tuple(_dim(extent, plan) for extent in value)


def _dim(extent: Extent, plan: Plan) -> int | Batch:
    size = extent.size.at(plan)
    return Batch(size) if extent.batch else size


def _changed(
    attrs: Mapping[str, Attr], constants: Mapping[str, Constant], plan: Plan
) -> Mapping[str, Attr]:
    return {**attrs, **{name: _at(value, plan) for name, value in constants.items()}}


def check(space: SearchSpace, kept: Kept) -> None:
    """Refuse indices that are no cut of this space.

    Raises:
        ValueError: the message names the group and what is wrong with its indices.
    """
    if len(kept) != len(space.groups):
        raise ValueError(f"kept has {len(kept)} entries for {len(space.groups)} channel groups")
    for group, indices in zip(space.groups, kept, strict=True):
        inside = all(0 <= index < group.channels for index in indices)
        ascending = all(a < b for a, b in pairwise(indices))
        if not indices or not inside or not ascending:
            raise ValueError(
                f"group {group.name} keeps {list(indices[:8])}: at least one index, ascending, "
                f"below {group.channels} is needed"
            )


def shrink(space: SearchSpace, kept: Kept) -> Graph:
    """The graph with only the kept channels: arguments, constants and stored shapes rewritten.

    Args:
        kept: indices of the kept channels per group, ascending, at least one each.

    Raises:
        ValueError: `kept` is no cut of this space.
    """
    check(space, kept)
    plan = tuple(map(len, kept))
    graph = space.graph
    # Candidates of a search cut few groups of many: what they leave alone is not made again.
    cut = frozenset(i for i, group in enumerate(space.groups) if plan[i] < group.channels)
    nodes = tuple(
        replace(node, attrs=_changed(node.attrs, space.node_constants[node.name], plan))
        if _moves(space.node_constants.get(node.name), cut)
        else node
        for node in graph.nodes
    )
    modules = {
        path: replace(module, args=_changed(module.args, space.module_constants[path], plan))
        if _moves(space.module_constants.get(path), cut)
        else module
        for path, module in graph.modules.items()
    }
    stored = dict(graph.stored)
    for name in {member.tensor for index in cut for member in space.groups[index].members}:
        shape = tuple(size.at(plan) for size in space.stored_shapes[name])
        stored[name] = replace(stored[name], shape=shape)
    return replace(graph, nodes=nodes, modules=modules, stored=stored)


def _moves(constants: Mapping[str, Constant] | None, cut: frozenset[int]) -> bool:
    """Whether any constant follows from a group that is cut."""
    for value in (constants or {}).values():
        if isinstance(value, float):
            return True
        sizes = (value,) if isinstance(value, Affine) else (extent.size for extent in value)
        if any(group in cut for size in sizes for group, _ in size.terms):
            return True
    return False
