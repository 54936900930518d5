"""The translation of an exported graph, call by call, into a graph of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from espalier.format.errors import EspalierError, FormatError
from espalier.format.ir import Graph
from espalier.format.lift_aliases import Aliases, make_functional
from espalier.format.lift_constants import CONSTANT_CALLS
from espalier.format.lift_context import Lifting, Value, unsupported
from espalier.format.lift_folded import folded, folds
from espalier.format.lift_modules import MODULE_CALLS
from espalier.format.lift_operators import OPERATOR_CALLS
from espalier.format.lift_shapes import SHAPE_CALLS
from espalier.format.lift_spelled import SPELLED_OUT, spell_out
from espalier.format.operators import MODULES, infer

HANDLERS = {**CONSTANT_CALLS, **SHAPE_CALLS, **OPERATOR_CALLS, **MODULE_CALLS}


def _registered(network: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, tensor and whether it is saved, in the order of `state_dict`; unsaved buffers too."""
    for path, module in network.named_modules(remove_duplicate=False):
        for local, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                saved = local not in module._non_persistent_buffers_set
                yield f"{path}.{local}" if path else local, tensor, saved


def start(network: nn.Module, exported: ExportedProgram) -> Lifting:
    """The inputs and the names of stored tensors."""
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    users = [n for n in placeholders if kinds[n.name].kind == InputKind.USER_INPUT]
    symbol = users[0].meta["val"].shape[0]
    if isinstance(symbol, int):
        raise FormatError("the network fixes its batch size")
    state = Lifting(network, symbol.node.expr)
    first: dict[int, str] = {}
    for name, tensor, saved in _registered(network):
        state.tensors[name] = tensor
        # Two names of one parameter (tied weights) are stored once.
        first.setdefault(id(tensor), name)
        if not saved:
            state.passing.add(name)
    for name, constant in exported.constants.items():
        if isinstance(constant, Tensor) and name not in state.tensors:
            state.tensors[name] = constant
            state.passing.add(name)
    for node in placeholders:
        spec = kinds[node.name]
        if spec.kind == InputKind.USER_INPUT:
            name = state.emit(node, "input", ())
            state.values[node] = name
            state.inputs[name] = state.type_of(node)
        elif spec.target is not None and spec.target in state.tensors:
            state.names[node] = first.get(id(state.tensors[spec.target]), spec.target)
        else:
            raise FormatError(f"{node.name} is a {spec.kind.name}, which is not carried")
    return state


@contextmanager
def _refusing(node: fx.Node) -> Iterator[None]:
    """Whatever goes wrong with one call is a refusal of that call, with the user's line."""
    try:
        yield
    except EspalierError:
        raise
    except Exception as error:  # a rule that did not expect these arguments, or torch itself
        said = f"{type(error).__name__}: {error}"
        raise unsupported(node, f"cannot be translated ({said})") from error


def translate(state: Lifting, exported: ExportedProgram) -> tuple[str, ...]:
    """Translate every call; the names of the outputs."""
    aliases = Aliases()
    outputs: tuple[str, ...] = ()
    for node in exported.graph.nodes:
        with _refusing(node):
            if node.op == "placeholder":
                aliases.note(node, stored=node in state.names)
            elif node.op == "call_function" and carries_tensor(node):
                _step(state, aliases, node)
            elif node.op == "call_function":
                state.values[node] = None
            elif node.op == "output":
                aliases.check(node)
                outputs = tuple(state.read(value, node) for value in node.args[0])
            else:
                raise unsupported(node)
    return outputs


def _step(state: Lifting, aliases: Aliases, node: fx.Node) -> None:
    written = make_functional(node)
    aliases.check(node)
    state.values[node] = _call(state, node)
    if written is not None:
        state.values[written] = state.values[node]
        aliases.write(node, written)
    aliases.note(node)
    _record(state, node)


def _call(state: Lifting, node: fx.Node) -> Value:
    """Translate one call."""
    if not carries_tensor(node):
        return None
    if folds(state, node, HANDLERS):
        return folded(state, node)
    if node.target in SPELLED_OUT:
        return spell_out(state, node, _call)
    if node.target not in HANDLERS:
        raise unsupported(node)
    return HANDLERS[node.target](state, node)


def _record(state: Lifting, node: fx.Node) -> None:
    """Remember what export says about a node of ours, to be compared with our shape rules."""
    name = state.values[node]
    if isinstance(name, str) and isinstance(node.meta["val"], Tensor):
        state.types[name] = state.type_of(node)


def compare(state: Lifting, graph: Graph) -> None:
    """Our shape rules must agree with what torch inferred, at every node."""
    for name, kind in infer(graph).items():
        if state.types.get(name, kind) != kind:
            node = state.places[name]
            raise unsupported(node, f"gives {state.types[name]}, the format takes it for {kind}")


_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def carries_tensor(node: fx.Node) -> bool:
    """Whether a call matters: arithmetic on sizes and assertions about them do not."""
    value = node.meta.get("val")
    return value is not None and not isinstance(value, _NUMBERS)


def pruned(state: Lifting, graph: Graph) -> Graph:
    """The graph of what outputs need; modules and tensors in the order of their registration."""
    needed = set(graph.outputs) | set(graph.inputs)
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            nodes.append(node)
            needed.update(node.inputs)
    nodes.reverse()
    called = {node.target for node in nodes if node.op == "module"}
    paths = (path for path, _ in state.network.named_modules(remove_duplicate=False))
    modules = {path: graph.modules[path] for path in paths if path in called}
    used = {node.target for node in nodes if node.op == "tensor"}
    for path, module in modules.items():
        used |= {f"{path}.{local}" for local in MODULES[module.kind].tensors(module.args)}
    stored = {name: graph.stored[name] for name in state.tensors if name in used}
    return Graph(tuple(nodes), modules, stored, graph.inputs, graph.outputs, graph.single)
