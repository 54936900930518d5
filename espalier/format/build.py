"""From a graph and its tensors to a network that runs and trains.

Every function and every module class comes from a table of ours; a graph only chooses among them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from espalier.format.build_operators import FUNCTIONS, Call, free_size, has_batch
from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.ir import Attr, Batch, Graph, Module, Node, Stored
from espalier.format.operators import MODULES
from espalier.format.package import opened

KINDS: Mapping[str, type[nn.Module]] = {
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
    "ConvTranspose1d": nn.ConvTranspose1d,
    "ConvTranspose2d": nn.ConvTranspose2d,
    "BatchNorm1d": nn.BatchNorm1d,
    "BatchNorm2d": nn.BatchNorm2d,
    "BatchNorm3d": nn.BatchNorm3d,
    "InstanceNorm1d": nn.InstanceNorm1d,
    "InstanceNorm2d": nn.InstanceNorm2d,
    "GroupNorm": nn.GroupNorm,
    "LayerNorm": nn.LayerNorm,
    "Linear": nn.Linear,
    "Embedding": nn.Embedding,
    "RMSNorm": nn.RMSNorm,
    "Dropout": nn.Dropout,
    "AlphaDropout": nn.AlphaDropout,
    "Dropout1d": nn.Dropout1d,
    "Dropout2d": nn.Dropout2d,
    "PReLU": nn.PReLU,
}


class FeatureDropout(nn.Module):
    """Whole channels dropped while training, at any number of dimensions.

    Args:
        p: probability of dropping a channel.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, ...)` to the same."""
        return torch.feature_dropout(x, self.p, self.training)


class Attention(nn.Module):
    """Scaled dot-product attention whose weights are dropped out while training.

    Args:
        p: probability of dropping a weight.
        scale: factor on the products; `None` for one over the root of the head's size.
        causal: whether a position sees only those before it.
    """

    def __init__(self, p: float, scale: float | None, causal: bool) -> None:
        super().__init__()
        self.p, self.scale, self.causal = p, scale, causal

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """`(..., n, d), (..., m, d), (..., m, e) -> (..., n, e)`."""
        return nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            dropout_p=self.p if self.training else 0.0,
            is_causal=self.causal,
            scale=self.scale,
        )


def _module(path: str, module: Module) -> nn.Module:
    """The module with its tensors left out (on the meta device: no memory is taken)."""
    if module.kind not in KINDS:
        raise UnsupportedOperator(f"module {path} is a {module.kind}, not in the table")
    placed = {"device": "meta"} if MODULES[module.kind].tensors(module.args) else {}
    try:
        return KINDS[module.kind](**module.args, **placed)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise FormatError(f"module {path} ({module.kind}): {error}") from error


def _attach(root: nn.Module, path: str, value: nn.Module | Tensor, *, trainable: bool) -> None:
    """Put a module or tensor at a dotted path, with plain modules on the way."""
    *parents, last = path.split(".")
    owner = root
    for part in parents:
        child = owner._modules.get(part)
        if child is None:
            if hasattr(owner, part):
                raise FormatError(f"{path}: the name {part} is taken by {type(owner).__name__}")
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    own = last in owner._parameters or last in owner._buffers
    if not own and hasattr(owner, last):
        raise FormatError(f"{path}: the name {last} is taken by {type(owner).__name__}")
    if isinstance(value, nn.Module):
        owner.add_module(last, value)
    elif trainable:
        owner._buffers.pop(last, None)
        owner.register_parameter(last, nn.Parameter(value))
    else:
        owner._parameters.pop(last, None)
        owner.register_buffer(last, value)


def _root(graph: Graph, tensors: Mapping[str, Tensor]) -> nn.Module:
    root = nn.Module()
    # Parents first: a container may itself be a module with tensors.
    for path in sorted(graph.modules, key=lambda path: path.count(".")):
        _attach(root, path, _module(path, graph.modules[path]), trainable=False)
    for name, stored in graph.stored.items():
        if name not in tensors:
            raise FormatError(f"tensor {name} is missing")
        tensor = tensors[name].detach()
        if tuple(tensor.shape) != stored.shape or str(tensor.dtype) != f"torch.{stored.dtype}":
            raise FormatError(
                f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"the graph has {stored.shape} {stored.dtype}"
            )
        _attach(root, name, tensor, trainable=stored.trainable)
    return root


class _Tracer:
    """Writes the traced code, node by node."""

    def __init__(self, graph: Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.code = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.multiples: dict[int, fx.Node] = {}
        self.names = frozenset(node.name for node in graph.nodes)

    def _add(self, node: Node, kind: str, target: Any, args: tuple[Any, ...] = ()) -> fx.Node:
        return self.code.create_node(kind, target, args, name=node.name)

    def _multiple(self, factor: int) -> fx.Node:
        """The node of `factor` times the batch size."""
        if factor not in self.multiples:
            name = "batch" if factor == 1 else f"batch_times_{factor}"
            while name in self.names:
                name += "_"
            if factor == 1:
                first = self.nodes[next(iter(self.graph.inputs))]
                made = self.code.create_node("call_method", "size", (first, 0), name=name)
            else:
                pair = (self._multiple(1), factor)
                made = self.code.create_node("call_function", operator.mul, pair, name=name)
            self.multiples[factor] = made
        return self.multiples[factor]

    def _resolve(self, shape: Attr) -> tuple[Any, ...]:
        if not isinstance(shape, tuple):
            raise FormatError(f"{shape!r} is no shape")
        return tuple(self._multiple(dim.factor) if isinstance(dim, Batch) else dim for dim in shape)

    def _switched(self, node: Node, module: nn.Module) -> fx.Node:
        """An operator that depends on `.train()` becomes a module under a name of its own."""
        path = node.name
        while hasattr(self.root, path):
            path += "_"
        self.root.add_module(path, module)
        return self._add(node, "call_module", path, tuple(self.nodes[n] for n in node.inputs))

    def _operator(self, node: Node) -> fx.Node:
        attrs = node.attrs
        if node.op == "dropout":
            return self._switched(node, nn.Dropout(_probability(attrs["p"])))
        if node.op == "feature_dropout":
            return self._switched(node, FeatureDropout(_probability(attrs["p"])))
        if node.op == "attention" and attrs["dropout"]:
            scale = None if attrs["scale"] is None else _real(attrs["scale"])
            module = Attention(_probability(attrs["dropout"]), scale, bool(attrs["causal"]))
            return self._switched(node, module)
        if node.op not in FUNCTIONS:
            raise UnsupportedOperator(f"node {node.name} is a {node.op}, not in the table")
        values = [self.nodes[name] for name in node.inputs]
        call: Call = FUNCTIONS[node.op](values, attrs, self._resolve)
        return self.code.create_node(
            "call_function", call.function, call.args, dict(call.kwargs), name=node.name
        )

    def _node(self, node: Node) -> fx.Node:
        if node.op == "input":
            return self._add(node, "placeholder", node.name)
        if node.op == "tensor":
            return self._add(node, "get_attr", node.target)
        if node.op == "module":
            return self._add(
                node, "call_module", node.target, tuple(self.nodes[n] for n in node.inputs)
            )
        return self._operator(node)

    def run(self) -> fx.Graph:
        by_name = {node.name: node for node in self.graph.nodes}
        for name in self.graph.inputs:  # the order of the arguments
            self.nodes[name] = self._node(by_name[name])
        if any(has_batch(node.attrs.get("shape")) for node in self.graph.nodes):
            self._multiple(1)
        for node in self.graph.nodes:
            if node.op != "input":
                self.nodes[node.name] = self._node(node)
        outputs = tuple(self.nodes[name] for name in self.graph.outputs)
        self.code.output(outputs[0] if self.graph.single else outputs)
        return self.code


def _real(value: Attr) -> float:
    if not isinstance(value, float):
        raise FormatError(f"{value!r} is no number")
    return value


def _probability(value: Attr) -> float:
    if not 0 <= _real(value) <= 1:
        raise FormatError(f"a probability of {value!r}")
    return _real(value)


def build(graph: Graph, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The network of `graph` with `tensors` as its parameters and buffers, in eval mode.

    Args:
        tensors: one for each of `graph.stored`, of its shape and type; used, not copied.
    Raises:
        FormatError: a tensor is missing or does not fit, or a name cannot be used.
    """
    root = _root(graph, tensors)
    network = fx.GraphModule(root, _Tracer(graph, root).run(), class_name="Network")
    network.meta["espalier"] = graph
    return network.eval()


def same_code(left: Graph, right: Graph) -> bool:
    """Whether `build` writes the same code for two graphs, their modules and tensors apart."""
    return len(left.nodes) == len(right.nodes) and all(
        one is other or _written(one) == _written(other)
        for one, other in zip(left.nodes, right.nodes, strict=True)
    )


def _written(node: Node) -> Node:
    if node.op != "reshape":
        return node
    return replace(node, attrs={"shape": free_size(node.attrs["shape"])})


def graph_of(network: nn.Module) -> Graph:
    """The graph that a network was built from.

    Raises:
        FormatError: the network was not made by `build` or `load`.
    """
    graph = getattr(network, "meta", {}).get("espalier")
    if not isinstance(graph, Graph):
        raise FormatError("the network has no graph: make it with espalier.load or build")
    return graph


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Current parameters and buffers of a built network, by the names in its graph.

    Raises:
        FormatError: the network was not made by `build`, or lost a tensor since.
    """
    held: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    held |= dict(network.named_buffers(remove_duplicate=False))
    missing = [name for name in graph_of(network).stored if name not in held]
    if missing:
        raise FormatError(f"tensor {missing[0]} is missing")
    return {name: held[name].detach() for name in graph_of(network).stored}


def load(path: str | Path) -> fx.GraphModule:
    """The network of a package, in eval mode; nothing from the file is executed.

    `network.meta["espalier"]` holds the `Graph`, `network.meta["manifest"]` the `Manifest`.

    Raises:
        FormatError: the package is malformed, corrupt or too large.
    """
    with opened(path) as (package, read):
        tensors = {
            name: _tensor(stored, read(name)) for name, stored in package.graph.stored.items()
        }
    network = build(package.graph, tensors)
    network.meta["manifest"] = package.manifest
    return network


def _tensor(stored: Stored, data: bytes) -> Tensor:
    dtype: torch.dtype = getattr(torch, stored.dtype)  # a name of the closed set
    if not data:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(stored.shape)
