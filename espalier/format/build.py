"""From a graph and its tensors to a network that runs and trains.

Every module class comes from a table of ours; a graph only chooses among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from espalier.format.build_code import switch
from espalier.format.errors import FormatError, UnsupportedOperator
from espalier.format.ir import Graph, Module, Stored
from espalier.format.network import Network, held
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


def _module(path: str, module: Module) -> nn.Module:
    """The module with its tensors left out (on the meta device: no memory is taken)."""
    if module.kind not in KINDS:
        raise UnsupportedOperator(f"module {path} is a {module.kind}, not in the table")
    placed = {"device": "meta"} if MODULES[module.kind].tensors(module.args) else {}
    try:
        return KINDS[module.kind](**module.args, **placed)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise FormatError(f"module {path} ({module.kind}): {error}") from error


class _Tree:
    """A module that holds what a graph names, under exactly these names.

    Entries go into `torch`'s own tables: no name can put itself in the place of a method.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.root = nn.Module()

    def module(self, path: str) -> nn.Module:
        """The module at a path, made when it is first asked for."""
        if not path:
            return self.root
        parent, _, last = path.rpartition(".")
        owner = self.module(parent)
        child = owner._modules.get(last)
        if child is None:
            known = self._graph.modules.get(path)
            child = nn.Module() if known is None else _module(path, known)
            owner._modules[last] = child
        return child

    def hold(self, name: str, tensor: Tensor, stored: Stored) -> None:
        path, _, last = name.rpartition(".")
        owner = self.module(path)
        owner._parameters.pop(last, None)
        owner._buffers.pop(last, None)
        if stored.trainable:
            owner._parameters[last] = nn.Parameter(tensor, requires_grad=not stored.frozen)
        else:
            owner._buffers[last] = tensor
            if not stored.persistent:
                owner._non_persistent_buffers_set.add(last)


def _filled(graph: Graph, tensors: Mapping[str, Tensor]) -> nn.Module:
    """All modules and tensors, registered in the graph's order, which is the original's."""
    tree = _Tree(graph)
    waiting, placed = iter(graph.modules), set[str]()
    for name, stored in graph.stored.items():
        if name not in tensors:
            raise FormatError(f"tensor {name} is missing")
        tensor = tensors[name].detach()
        if not _fits(tensor, stored):
            raise FormatError(
                f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"the graph has {stored.shape} {stored.dtype}"
            )
        owner = name.rpartition(".")[0]
        while owner in graph.modules and owner not in placed:  # and those without tensors before it
            path = next(waiting)
            tree.module(path)
            placed.add(path)
        tree.hold(name, tensor, stored)
    for path in waiting:
        tree.module(path)
    return tree.root


def build(graph: Graph, tensors: Mapping[str, Tensor]) -> Network:
    """The network of `graph` with `tensors` as its parameters and buffers, in eval mode.

    Args:
        tensors: one for each of `graph.stored`, of its shape and type; used, not copied.
    Raises:
        FormatError: a tensor is missing or does not fit, or a module cannot be made.
    """
    return Network(_filled(graph, tensors), graph).eval()


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


def as_built(network: nn.Module) -> TypeGuard[Network]:
    """Whether a network still does what its graph says.

    That is, no code, module or forward was replaced or edited since, no hook was added, and its
    tensors are of the types and shapes that they were.
    """
    if not isinstance(network, Network) or not network.has_its_code():
        return False
    graph, find = network.meta["espalier"], network.get_submodule
    switches = network._targets.switches
    return (
        not any(map(_redirected, network.modules()))
        and all(_is(find(path), module) for path, module in graph.modules.items())
        and all(
            _same(find(switches[node.name]), switch(node))
            for node in graph.nodes
            if node.name in switches
        )
        and all(_fits(held(network, name), stored) for name, stored in graph.stored.items())
    )


def _redirected(module: nn.Module) -> bool:
    """Whether a call does more than the `forward` of its class, or something else."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _same(left: nn.Module, right: nn.Module | None) -> bool:
    """Whether two modules without tensors are of one class, with equal settings."""

    def settings(module: nn.Module | None) -> dict[str, object]:
        given = {} if module is None else vars(module)
        return {name: value for name, value in given.items() if name[0] != "_"} | {"training": None}

    return type(left) is type(right) and settings(left) == settings(right)


def _fits(tensor: object, stored: Stored) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tuple(tensor.shape) == stored.shape
        and str(tensor.dtype) == f"torch.{stored.dtype}"
    )


def _is(found: nn.Module, module: Module) -> bool:
    """Whether it is what `_module` makes; a module calls its constructor's arguments the same."""
    if type(found) is not KINDS[module.kind]:
        return False
    for name, value in module.args.items():
        held = getattr(found, name)
        if (held is not None if name == "bias" else held) != value:
            return False
    return True


def load(path: str | Path) -> Network:
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
