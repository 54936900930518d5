"""What the translation of an exported network keeps at hand: values, modules, tensors.

The exported graph is a `torch.fx.Graph` of ATen calls. Each of its values is translated to the
name of a node of ours (one tensor), to a `Split` (several tensors, made when one is asked for), or
to a `Constant` (a number that does not depend on the data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.ir import Attr, Batch, Dim, Module, Node, Stored, TensorType
from espalier.format.network import held
from espalier.format.operators import MODULES


@dataclass(frozen=True, slots=True)
class Split:
    """The tensors of an operator with several results; each is made when it is read."""

    make: tuple[Callable[[fx.Node], str], ...]


def made(names: tuple[str, ...]) -> Split:
    """Several tensors that are there already."""

    def maker(name: str) -> Callable[[fx.Node], str]:
        return lambda _: name

    return Split(tuple(maker(name) for name in names))


Value = str | Split | None
"""`None` stands for numbers such as the batch size: shapes are read from what export inferred."""


def source_line(node: fx.Node) -> str:
    """Where the user's code called this: file's base name, line and text, for messages only."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip()]
    places = [i for i, line in enumerate(frames) if line.startswith('File "')]
    outside = [i for i in places if "/torch/" not in frames[i].replace("\\", "/")]
    if not places:
        return ""
    at = (outside or places)[-1]
    parts = frames[at].split('"')
    number = parts[2].split(",")[1].strip().removeprefix("line ")
    text = frames[at + 1] if at + 1 < len(frames) and at + 1 not in places else ""
    return f" at {Path(parts[1]).name}:{number}" + (f": {text}" if text else "")


_WAYS_OUT: Mapping[str, str] = {
    "aten::_weight_norm": "remove it with torch.nn.utils.parametrize.remove_parametrizations",
    "aten::mv": "remove a spectral norm with torch.nn.utils.parametrize.remove_parametrizations",
    "aten::lstm": "recurrent layers are not carried",
    "aten::gru": "recurrent layers are not carried",
    "aten::where": "a choice between values is not carried: use clamp, relu or a product",
    "aten::index": "take slices, or index by a single number",
    "aten::index_select": "take slices, or index by a single number",
    "aten::rrelu": "use LeakyReLU",
    "aten::im2col": "use a convolution, or reshape and permute",
}


def unsupported(node: fx.Node, reason: str | None = None) -> UnsupportedOperator:
    """The refusal of one exported call, by name and with the user's line."""
    if reason is None:
        schema = getattr(node.target, "_schema", None)
        way_out = _WAYS_OUT.get(getattr(schema, "name", ""))
        reason = "is not in the operator table" + (f" ({way_out})" if way_out else "")
    return UnsupportedOperator(f"operator {node.target} {reason}{source_line(node)}")


@dataclass
class Lifting:
    """The state of one translation.

    Attributes:
        network: the user's, only read.
        batch: the symbol that export gave to the batch size.
        values: of exported nodes already translated.
        names: of stored tensors, by the exported placeholder that carries them.
        notes: where the packed network does not do what the original does, and the user's line.
        passing: names of tensors that the network's `state_dict` does not have.
        known: values of exported nodes that depend neither on data nor on what is trained.
        types: what export inferred, by the names of nodes of ours.
        places: the exported call that each node of ours comes from, by its name.
    """

    network: nn.Module
    batch: Any
    values: dict[fx.Node, Value] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)
    known: dict[fx.Node, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)
    stored: dict[str, Stored] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, TensorType] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    places: dict[str, fx.Node] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    passing: set[str] = field(default_factory=set)
    notes: list[tuple[str, str]] = field(default_factory=list)

    # --- shapes ---

    def dim(self, value: Any, node: fx.Node) -> Dim:
        """An exported dimension: an integer, or a multiple of the batch."""
        if isinstance(value, int):
            return value
        expression = value.node.expr
        if expression.is_Integer:
            return int(expression)
        factor = expression / self.batch
        if not factor.is_Integer:
            raise FormatError(
                f"a size of {expression} is no multiple of the batch size{source_line(node)}"
            )
        return Batch(int(factor))

    def type_of(self, node: fx.Node) -> TensorType:
        """Shape and element type that export inferred for a node."""
        value = node.meta["val"]
        shape = tuple(self.dim(size, node) for size in value.shape)
        return TensorType(shape, str(value.dtype).removeprefix("torch."))

    def shape(self, node: fx.Node) -> tuple[Dim, ...]:
        return self.type_of(node).shape

    # --- nodes ---

    def unique(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name

    def emit(
        self,
        node: fx.Node,
        op: str,
        inputs: tuple[str, ...],
        attrs: Mapping[str, Attr] | None = None,
        target: str | None = None,
    ) -> str:
        """Append a node of ours, named after the exported one."""
        name = self.unique(node.name)
        self.nodes.append(Node(name, op, inputs, attrs or {}, target))
        self.places[name] = node
        return name

    def reshape(self, node: fx.Node, source: str, shape: tuple[Dim, ...]) -> str:
        return self.emit(node, "reshape", (source,), {"shape": shape})

    def read(self, value: object, node: fx.Node) -> str:
        """Name of the node that holds an argument's tensor."""
        if not isinstance(value, fx.Node):
            raise unsupported(node, f"takes {type(value).__name__} where a tensor is carried")
        if value in self.names and value not in self.values:
            self.values[value] = self.stored_node(value, self.names[value])
        found = self.values.get(value)
        if not isinstance(found, str):
            raise unsupported(node, "uses a value that is not a single tensor")
        return found

    def stored_node(self, node: fx.Node, name: str) -> str:
        self.keep(name)
        return self.emit(node, "tensor", (), target=name)

    # --- stored tensors and modules ---

    def constant(self, node: fx.Node, value: Tensor) -> str:
        """Keep a tensor that the network computes from nothing, under a free name; read it."""
        count = 0
        while (name := f"constant_{count}") in self.tensors or name in self.network._modules:
            count += 1
        self.tensors[name] = value
        self.passing.add(name)
        return self.stored_node(node, name)

    def keep(self, name: str) -> None:
        """Store a parameter, buffer or constant under its name."""
        if name in self.stored:
            return
        tensor = self.tensors[name]
        parameter = isinstance(tensor, nn.Parameter)
        self.stored[name] = Stored(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            trainable=parameter,
            frozen=parameter and not tensor.requires_grad,
            persistent=name not in self.passing,
        )

    def stored_name(self, value: object) -> str | None:
        """Name of the stored tensor that an argument is, if it is one."""
        return self.names.get(value) if isinstance(value, fx.Node) else None

    def owner(self, node: fx.Node, kind: type[nn.Module]) -> tuple[str, nn.Module] | None:
        """Innermost module that made this call, if it is of a kind: its path and itself."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if not stack:
            return None
        path = stack[-1][0]
        module = held(self.network, path)
        if module is None:  # export marks repeated calls, as `path@1`
            path = path.rpartition("@")[0]
            module = held(self.network, path)
        return (path, module) if isinstance(module, kind) else None

    def call_module(
        self, node: fx.Node, kind: str, path: str, args: Mapping[str, Attr], source: object
    ) -> str:
        """Append the call of a module; its tensors are those of that path."""
        module = Module(kind, args)
        known = self.modules.get(path)
        if known is not None and known != module:
            raise unsupported(node, f"uses the tensors of {path} with other arguments")
        self.modules[path] = module
        for local, shape in MODULES[kind].tensors(args).items():
            name = f"{path}.{local}"
            if name not in self.tensors and local == "num_batches_tracked":
                self.tensors[name] = torch.zeros((), dtype=torch.int64)
            if name not in self.tensors or tuple(self.tensors[name].shape) != shape:
                raise unsupported(node, f"needs a tensor {name} of shape {shape}")
            self.keep(name)
        return self.emit(node, "module", (self.read(source, node),), target=path)

    def path_of(self, node: fx.Node, **tensors: object) -> str:
        """The module that owns these arguments, each under its local name.

        Raises:
            UnsupportedOperator: they are computed, or belong to no single module.
        """
        paths: set[str] = set()
        for local, value in tensors.items():
            if value is None:
                continue
            name = self.stored_name(value)
            path, _, last = (name or "").rpartition(".")
            if name is None or last != local or not path:
                raise unsupported(node, f"needs its {local} to be a module's own, not computed")
            paths.add(path)
        if len(paths) != 1:
            raise unsupported(node, "needs its tensors to belong to one module")
        return paths.pop()


Handler = Callable[[Lifting, fx.Node], Value]


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an exported call by name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]  # an ATen overload, checked before
    found: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            found[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value
    return found
