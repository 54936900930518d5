"""In-place calls in an exported graph, made functional where that means the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from espalier.format.lift_context import unsupported


def functional(node: fx.Node) -> tuple[Any, fx.Node | None]:
    """The variant of a call that writes nothing, and the value that was written in place."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return target, None
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    written = node.args[0]
    packet = getattr(torch.ops.aten, name, None)
    overload = target._overloadname
    if not isinstance(written, fx.Node) or packet is None or not hasattr(packet, overload):
        raise unsupported(node, "writes in place, which is not carried")
    return getattr(packet, overload), written


_DROPOUTS = frozenset(
    {
        torch.ops.aten.dropout.default,
        torch.ops.aten.feature_dropout.default,
        torch.ops.aten.alpha_dropout.default,
    }
)


class Aliases:
    """Which exported values share memory, and which of them an in-place call made stale."""

    def __init__(self) -> None:
        self._base: dict[fx.Node, fx.Node] = {}
        self._stale: set[fx.Node] = set()

    def _root(self, node: fx.Node) -> fx.Node:
        while node in self._base:
            node = self._base[node]
        return node

    def note(self, node: fx.Node) -> None:
        """Remember that a view shares its source's memory."""
        source = node.args[0] if node.args else None
        target = node.target
        if not isinstance(source, fx.Node):
            return
        # Out of training, dropout hands its input on.
        if target in _DROPOUTS:
            self._base[node] = source
        returns = getattr(getattr(target, "_schema", None), "returns", ())
        if any(item.alias_info is not None for item in returns) or not returns:
            self._base[node] = source

    def write(self, node: fx.Node, written: fx.Node) -> None:
        """After an in-place call every other value over the same memory is out of date."""
        root = self._root(written)
        group = {other for other in [*self._base, root] if self._root(other) is root}
        self._stale |= group - {written, node}

    def check(self, node: fx.Node) -> None:
        """Refuse a call that reads a value which was changed through another name.

        Raises:
            UnsupportedOperator: see above.
        """
        if any(source in self._stale for source in node.all_input_nodes):
            raise unsupported(node, "reads a tensor that was changed in place through a view")
