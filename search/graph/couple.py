"""One pass over a graph: which channel positions belong together, and which stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from espalier.format.ir import Graph, Node
from espalier.format.operators import infer
from search.graph.atoms import READ, IntArray, components
from search.graph.context import Context, Rule
from search.graph.labels import Block, Labelled, fix
from search.graph.rules_modules import MODULE_RULES
from search.graph.rules_products import PRODUCT_RULES
from search.graph.rules_tensor import TENSOR_RULES

OPERATOR_RULES: Mapping[str, Rule] = {**TENSOR_RULES, **PRODUCT_RULES}

_MAKERS = ("Conv", "Linear", "Embedding")

ROUNDS = 32
"""Passes that settle split dimensions before what is still open is left uncut."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """The result of the pass.

    Attributes:
        context: the atoms of the stored tensors and what the rules recorded.
        values: each node's labels.
        classes: `(atoms,)` the smallest atom of each atom's class.
        stay: `(atoms,)` by class: index of the reason why it stays, -1 where it may go.
    """

    context: Context
    values: Mapping[str, Labelled]
    classes: IntArray
    stay: IntArray

    @property
    def marks(self) -> IntArray:
        """`(atoms,)` the atom's class, or -1 for everything that stays."""
        return np.where(self.stay[self.classes] >= 0, -1, self.classes)


def _apply(context: Context, node: Node, values: Mapping[str, Labelled]) -> Labelled:
    shape = context.shape(node.name)
    if node.op == "input":
        return Labelled(shape, given=True)
    if node.op == "tensor":
        return context.whole(node.target or "")
    inputs = [values[name] for name in node.inputs]
    if node.op == "module":
        kind = context.graph.kind_of(node)
        result = MODULE_RULES[kind](context, node, inputs)
        given = inputs[0].given and not kind.startswith(_MAKERS)
        return replace(result, shape=shape, constant=False, given=given)
    result = OPERATOR_RULES[node.op](context, node, inputs)
    given = node.op != "linear" and any(value.given for value in inputs)
    constant = all(value.constant for value in inputs)
    return replace(result, shape=shape, constant=constant, given=given)


def _hold_shared(context: Context) -> None:
    """Keep the dimensions that a module cannot lose of stored tensors that are also used raw."""
    raw = {node.target for node in context.graph.nodes if node.op == "tensor"}
    for node, module in context.graph.calls():
        weight = f"{node.target}.weight"
        if weight not in raw:
            continue
        if module.kind == "Embedding":
            held = {0}
        elif module.kind.startswith("Conv"):
            held = set(range(2, len(context.graph.stored[weight].shape)))
            held |= {1} if node.target in context.grouped else set()
        else:
            continue
        for dim in sorted(held):
            if (weight, dim) in context.stored:
                reason = f"{node.target} cannot lose them"
                context.atoms.fix(context.stored[weight, dim], reason)


def varying(marks: IntArray, block: Block) -> list[int]:
    """Axes of a block along which it matters which position goes."""
    found = marks[block.atoms]
    return [
        axis
        for axis in range(found.ndim)
        if found.shape[axis] > 1 and not bool((found == found.take([0], axis=axis)).all())
    ]


def _units(marks: IntArray, axis: int) -> int:
    """How many independent slices along `axis` are left when all else is tied."""
    rows = np.moveaxis(marks, axis, 0).reshape(marks.shape[axis], -1)
    names, index = np.unique(rows, return_inverse=True)
    row = np.repeat(np.arange(len(rows)), rows.shape[1])
    vertices = np.arange(len(rows) + len(names), dtype=np.int64)
    roots = components(vertices, row, len(rows) + index.ravel())
    units = set(roots[: len(rows)].tolist())
    if names[0] == -1:
        units.discard(int(roots[len(rows)]))
    return len(units)


def _settle(context: Context, values: Mapping[str, Labelled]) -> tuple[IntArray, IntArray]:
    """Tie what must go together for every split dimension to stay rectangular.

    A block may lose positions along one of its dimensions only; it is the one that leaves the
    most to choose from.
    """
    atoms = context.atoms
    open_blocks = list(
        {
            id(block.atoms): block
            for value in values.values()
            for block in value.blocks
            if len(block.dims) > 1
        }.values()
    )
    for turn in range(ROUNDS + 1):
        classes = atoms.classes()
        stay = atoms.stay(classes)
        marks = np.where(stay[classes] >= 0, -1, classes)
        touched = np.zeros(atoms.count + 1, dtype=bool)  # the last entry is for what stays
        # ties only make blocks more even: what is settled once stays so
        open_ = [(block, axes) for block in open_blocks if len(axes := varying(marks, block)) > 1]
        if not open_:
            return classes, stay
        open_blocks = [block for block, _ in open_]
        for block, axes in open_:
            found = marks[block.atoms]
            if turn == ROUNDS:
                atoms.fix(block.atoms, "they are split in ways that do not fit together")
                continue
            if touched[found].any():
                continue  # what was just tied may have settled it
            best = max(axes, key=lambda axis: (_units(found, axis), -axis))
            for axis in axes:
                if axis != best:
                    atoms.unite_along(block.atoms, axis)
            touched[found] = True
            touched[-1] = False
    return classes, atoms.stay(classes)


def couple(graph: Graph) -> Coupling:
    """Run every operator's rule.

    Raises:
        FormatError: the graph's shapes do not fit.
        TooManyPositions: the analysis would take too much memory.
    """
    context = Context(graph, infer(graph))
    values: dict[str, Labelled] = {}
    seen: set[int] = set()
    for node in graph.nodes:
        context.atoms.spend(READ * len(node.inputs))
        value = values[node.name] = _apply(context, node, values)
        for block in value.blocks:  # each is looked at again, even where it is but a view
            if id(block.atoms) not in seen:
                seen.add(id(block.atoms))
                context.atoms.spend(block.atoms.size)
    for name in graph.outputs:
        fix(context.atoms, values[name], "they are the network's output")
    _hold_shared(context)
    return Coupling(context, values, *_settle(context, values))
