"""In-place calls in an exported graph: made functional, and refused where that is not the same.

Export records what each call writes, not what else looks at the memory written. A call that reads
such a value afterwards would be given the old one, so it is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from espalier.format.lift_context import unsupported

aten = torch.ops.aten


def make_functional(node: fx.Node) -> fx.Node | None:
    """Turn an in-place call into the call that writes nothing; the value that it wrote, if any.

    Afterwards every call has the name and the argument names of its functional form, so that no
    translation has to know both.

    Raises:
        UnsupportedOperator: there is no such form.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    written, form = node.args[0] if node.args else None, _functional_form(target)
    if form is None or not isinstance(written, fx.Node):
        raise unsupported(node, "writes in place, which is not carried")
    new_names = {
        old.name: new.name
        for old, new in zip(target._schema.arguments, form._schema.arguments, strict=True)
    }
    node.target = form
    node.kwargs = {new_names[name]: value for name, value in node.kwargs.items()}
    # `unsqueeze_` and its like give the tensor another shape and leave its elements alone.
    return None if torch.Tag.inplace_view in target.tags else written


def _functional_form(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The overload without the underscore that takes arguments of the same types."""
    packet = getattr(aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    if packet is None:
        return None
    types = [str(argument.type) for argument in target._schema.arguments]
    for name in packet.overloads():
        overload: torch._ops.OpOverload = getattr(packet, name)
        schema = overload._schema
        if not schema.is_mutable and [str(item.type) for item in schema.arguments] == types:
            return overload
    return None


_DROPOUTS = frozenset(
    {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
)


class Aliases:
    """Which exported values share memory, and which of them an in-place call made stale.

    Memory is told by the storages of the tensors that export traced with, and by the schemas of
    the calls where those copy and the real ones do not.
    """

    def __init__(self) -> None:
        self._groups: dict[fx.Node, set[fx.Node]] = {}
        self._storages: dict[int, fx.Node] = {}
        self._stored: set[fx.Node] = set()
        self._stale: dict[fx.Node, str] = {}

    def note(self, node: fx.Node, *, stored: bool = False) -> None:
        """Remember what shares memory with a value; `stored` if that belongs to the network."""
        group = self._groups.setdefault(node, {node})
        if stored:
            self._stored.add(node)
        for other in (self._first_over(node), *_viewed(node)):
            joined = self._groups.setdefault(other, {other})
            if joined is not group:
                group |= joined
                self._groups.update(dict.fromkeys(joined, group))

    def _first_over(self, node: fx.Node) -> fx.Node:
        """The first value over the same storage; the pieces of several results count each."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return node
        return self._storages.setdefault(value.untyped_storage()._cdata, node)

    def write(self, node: fx.Node, written: fx.Node) -> None:
        """After an in-place call every other value over the same memory is out of date."""
        self.note(node)
        group = self._groups[node] | self._groups.get(written, set())
        if group & self._stored:
            why = "reads a tensor of the network that its forward changes: leave it as it is"
            self._stale.update(dict.fromkeys(group, why))
        else:
            why = "reads a tensor that was changed in place through a view"
            self._stale.update(dict.fromkeys(group - {written, node}, why))

    def check(self, node: fx.Node) -> None:
        """Refuse a call that reads a value which was changed through another name.

        Raises:
            UnsupportedOperator: see above.
        """
        for source in node.all_input_nodes:
            if source in self._stale:
                raise unsupported(node, self._stale[source])


def _viewed(node: fx.Node) -> tuple[fx.Node, ...]:
    """The first argument, where the result may be a view of it, or itself."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or node.op != "call_function":
        return ()
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    views = any(item.alias_info is not None for item in returns)
    # Out of training, dropout hands its input on.
    return (source,) if views or node.target in _DROPOUTS else ()
