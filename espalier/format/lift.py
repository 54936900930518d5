"""From a user's network to a graph of ours, and to a package.

`torch.export` traces the network in eval mode; every ATen call is then translated by a table.
What has no entry is refused by name. The network is only read: its modes are put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from espalier.format.build import build, graph_of, tensors_of
from espalier.format.check import check
from espalier.format.errors import FormatError
from espalier.format.ir import Graph
from espalier.format.lift_aliases import Aliases, functional
from espalier.format.lift_constants import CONSTANT_CALLS
from espalier.format.lift_context import Lifting, Value, unsupported
from espalier.format.lift_export import Example, examples, export, settled
from espalier.format.lift_folded import folded, folds
from espalier.format.lift_modules import MODULE_CALLS
from espalier.format.lift_operators import OPERATOR_CALLS
from espalier.format.lift_shapes import SHAPE_CALLS
from espalier.format.lift_spelled import SPELLED_OUT, spell_out
from espalier.format.operators import MODULES, infer
from espalier.format.package import Preprocessing, write_package

HANDLERS = {**CONSTANT_CALLS, **SHAPE_CALLS, **OPERATOR_CALLS, **MODULE_CALLS}


def _tensors(network: nn.Module, exported: ExportedProgram) -> dict[str, Tensor]:
    """Everything that may be stored: parameters, buffers (unsaved ones too), constants."""
    found: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    found |= dict(network.named_buffers(remove_duplicate=False))
    found |= {
        n: v for n, v in exported.constants.items() if isinstance(v, Tensor) and n not in found
    }
    return found


def _start(network: nn.Module, exported: ExportedProgram) -> Lifting:
    """The inputs and the names of stored tensors."""
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    users = [n for n in placeholders if kinds[n.name].kind == InputKind.USER_INPUT]
    symbol = users[0].meta["val"].shape[0]
    if isinstance(symbol, int):
        raise FormatError("the network fixes its batch size")
    state = Lifting(network, symbol.node.expr, tensors=_tensors(network, exported))
    first: dict[int, str] = {}
    for node in placeholders:
        spec = kinds[node.name]
        if spec.kind == InputKind.USER_INPUT:
            name = state.emit(node, "input", ())
            state.values[node] = name
            state.inputs[name] = state.type_of(node)
        elif spec.target is not None and spec.target in state.tensors:
            # Two names of one parameter (tied weights) are stored once.
            tensor = state.tensors[spec.target]
            state.names[node] = first.setdefault(id(tensor), spec.target)
        else:
            raise FormatError(f"{node.name} is a {spec.kind.name}, which is not carried")
    return state


def _translate(state: Lifting, exported: ExportedProgram) -> tuple[str, ...]:
    """Translate every call; the names of the outputs."""
    aliases = Aliases()
    outputs: tuple[str, ...] = ()
    for node in exported.graph.nodes:
        if node.op == "call_function":
            if not _carries_tensor(node):
                state.values[node] = None
                continue
            target, written = functional(node)
            aliases.check(node)
            state.values[node] = _call(state, node, target)
            if written is not None:
                aliases.write(node, written)
                state.values[written] = state.values[node]
            aliases.note(node)
            _record(state, node)
        elif node.op == "output":
            outputs = tuple(state.read(value, node) for value in node.args[0])
        elif node.op != "placeholder":
            raise unsupported(node)
    return outputs


def _call(state: Lifting, node: fx.Node, target: object = None) -> Value:
    """Translate one call; `target` is what it computes, if that is not its own target."""
    target = target or node.target
    if not _carries_tensor(node):
        return None
    if folds(state, node, HANDLERS):
        return folded(state, node)
    if target in SPELLED_OUT:
        return spell_out(state, node, _call)
    if target not in HANDLERS:
        raise unsupported(node)
    return HANDLERS[target](state, node)


def _record(state: Lifting, node: fx.Node) -> None:
    """Remember what export says about a node of ours, to be compared with our shape rules."""
    name = state.values[node]
    if isinstance(name, str) and isinstance(node.meta["val"], Tensor):
        state.types[name] = state.type_of(node)
        state.places[name] = node


def _compare(state: Lifting, graph: Graph) -> None:
    """Our shape rules must agree with what torch inferred, at every node."""
    for name, kind in infer(graph).items():
        if state.types.get(name, kind) != kind:
            node = state.places[name]
            raise unsupported(node, f"gives {state.types[name]}, the format takes it for {kind}")


_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def _carries_tensor(node: fx.Node) -> bool:
    """Whether a call matters: arithmetic on sizes and assertions about them do not."""
    value = node.meta.get("val")
    return value is not None and not isinstance(value, _NUMBERS)


def _pruned(graph: Graph) -> Graph:
    """Without nodes, modules and tensors that no output needs."""
    needed = set(graph.outputs) | set(graph.inputs)
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            nodes.append(node)
            needed.update(node.inputs)
    nodes.reverse()
    called = {node.target for node in nodes if node.op == "module"}
    modules = {path: module for path, module in graph.modules.items() if path in called}
    used = {node.target for node in nodes if node.op == "tensor"}
    for path, module in modules.items():
        used |= {f"{path}.{local}" for local in MODULES[module.kind].tensors(module.args)}
    stored = {name: value for name, value in graph.stored.items() if name in used}
    return Graph(tuple(nodes), modules, stored, graph.inputs, graph.outputs, graph.single)


def lift(network: nn.Module, example: Example) -> tuple[Graph, dict[str, Tensor]]:
    """Translate a network into a graph and copies of the tensors it needs.

    Args:
        example: one input tensor, or a tuple of them, batch first; only shapes and types matter.
    Raises:
        UnsupportedOperator: an operator is not in the table; names it and the line that called it.
        FormatError: the network cannot be traced, fixes its batch size, or returns other things
            than tensors.
    """
    with settled(network):
        exported = export(network, examples(example))
    state = _start(network, exported)
    outputs = _translate(state, exported)
    spec = exported.call_spec.out_spec
    single = spec is None or spec.is_leaf()
    if (
        spec is not None
        and not single
        and (
            spec.type not in (tuple, list) or not all(child.is_leaf() for child in spec.children())
        )
    ):
        raise FormatError("the network must return a tensor or a flat tuple of tensors")
    graph = _pruned(
        Graph(tuple(state.nodes), state.modules, state.stored, state.inputs, outputs, single)
    )
    _compare(state, graph)
    check(graph)
    tensors = {name: _copied(state.tensors[name]) for name in graph.stored}
    return graph, tensors


def _copied(tensor: Tensor) -> Tensor:
    """A compact copy: nothing of a larger storage behind a view comes along."""
    return tensor.detach().cpu().contiguous().clone()


def pack(
    network: nn.Module,
    example: Example,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] = (),
    name: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as a package that loads without its class.

    Args:
        network: any module; one that `load` or `build` made is written with its own graph.
        example: an input, or a tuple of them, batch first.
        preprocessing: how raw data becomes the network's input.
        classes: names of the outputs, if it classifies.
        extra: further facts for the manifest, as JSON values.
    Returns:
        The path written.
    Raises:
        FormatError: see `lift`.
    """
    if "espalier" in getattr(network, "meta", {}):
        graph = graph_of(network)
        tensors = {key: _copied(value) for key, value in tensors_of(network).items()}
    else:
        graph, tensors = lift(network, example)
        _check(network, graph, tensors, examples(example))
    return write_package(
        path,
        {
            "name": name or type(network).__name__,
            "preprocessing": preprocessing or Preprocessing(),
            "classes": tuple(classes),
            "extra": dict(extra or {}),
        },
        graph,
        {key: value.view(-1).view(torch.uint8).numpy() for key, value in tensors.items()},
    )


def _check(
    network: nn.Module, graph: Graph, tensors: Mapping[str, Tensor], inputs: tuple[Tensor, ...]
) -> None:
    """Run both on the example: a translation that computes something else is never written."""
    rebuilt = build(graph, tensors)
    with settled(network), torch.random.fork_rng(devices=[]):
        expected = network(*(value.clone() for value in inputs))
        found = rebuilt(*(value.clone() for value in inputs))
    pairs = [(expected, found)] if graph.single else list(zip(expected, found, strict=True))
    for left, right in pairs:
        if not torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True):
            worst = (left - right).abs().max().item()
            raise FormatError(f"the packed network computes something else (off by {worst:.3g})")
