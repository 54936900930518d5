"""Attributes and arguments that follow from channel counts, as functions of the plan."""

from __future__ import annotations

from collections.abc import Mapping

from espalier.format.ir import Graph, Module, Node, TensorType, size
from espalier.format.operators import integer, integers
from search.space import Affine, Constant, Extent

Shapes = Mapping[str, tuple[Extent, ...]]
Spans = Mapping[tuple[str, int], Affine]


def moves(value: Affine | tuple[Extent, ...]) -> bool:
    """Whether a size depends on the plan at all."""
    if isinstance(value, Affine):
        return bool(value.terms)
    return any(extent.size.terms for extent in value)


def _plus(left: Affine, right: Affine) -> Affine:
    terms = dict(left.terms)
    for group, positions in right.terms:
        terms[group] = terms.get(group, 0) + positions
    return Affine(left.constant + right.constant, tuple(sorted(terms.items())))


def _divided(value: Affine, by: int) -> Affine:
    terms = tuple((group, positions // by) for group, positions in value.terms)
    return Affine(value.constant // by, terms)


def _of_node(
    node: Node, shapes: Shapes, spans: Spans, widths: Mapping[str, TensorType]
) -> dict[str, Constant]:
    own = shapes[node.name]
    if node.op in ("reshape", "expand"):
        return {"shape": own} if moves(own) else {}
    if node.op == "layer_norm":
        tail = own[len(own) - len(integers(node.attrs, "shape")) :]
        return {"shape": tail} if moves(tail) else {}
    if node.op == "attention" and node.attrs["scale"] is None:
        # The scale that torch derives from the size of a query is that of the full one.
        full = widths[node.inputs[0]].shape[-1]
        return {"scale": size(full) ** -0.5} if shapes[node.inputs[0]][-1].size.terms else {}
    if node.op == "select" and (node.name, 0) in spans:
        start = spans[node.name, 0]
        return {"index": start} if moves(start) else {}
    if node.op == "slice" and (node.name, 0) in spans:
        start = spans[node.name, 0]
        at = integer(node.attrs, "dim")
        stop = _plus(start, own[at].size)
        return {"start": start, "stop": stop} if moves(stop) else {}
    if node.op == "pad":
        pads = tuple(
            Extent(spans.get((node.name, slot), Affine(width)))
            for slot, width in enumerate(integers(node.attrs, "pads"))
        )
        return {"pads": pads} if moves(pads) else {}
    return {}


def node_constants(
    graph: Graph, shapes: Shapes, spans: Spans, widths: Mapping[str, TensorType]
) -> dict[str, dict[str, Constant]]:
    """Attributes that change, by node; `widths` are the types at full width."""
    found = {node.name: _of_node(node, shapes, spans, widths) for node in graph.nodes}
    return {name: constants for name, constants in found.items() if constants}


# --- modules ------------------------------------------------------------------------------------


def _convolution(module: Module, weight: tuple[Affine, ...], *, grouped: bool) -> dict[str, Affine]:
    groups = integer(module.args, "groups")
    c_in, c_out = integer(module.args, "in_channels"), integer(module.args, "out_channels")
    transposed = module.kind.startswith("ConvTranspose")
    rows, columns = (weight[1], weight[0]) if transposed else (weight[0], weight[1])
    if grouped and transposed:
        left = _divided(columns, c_in // groups)
        return {
            "in_channels": columns,
            "groups": left,
            "out_channels": _times(left, c_out // groups),
        }
    if grouped:
        left = _divided(rows, c_out // groups)
        return {"in_channels": _times(left, c_in // groups), "groups": left, "out_channels": rows}
    if transposed:
        return {"in_channels": columns, "out_channels": _times(rows, groups)}
    return {"in_channels": _times(columns, groups), "out_channels": rows}


def _times(value: Affine, by: int) -> Affine:
    terms = tuple((group, positions * by) for group, positions in value.terms)
    return Affine(value.constant * by, terms)


def _of_module(
    path: str,
    module: Module,
    stored: Mapping[str, tuple[Affine, ...]],
    arguments: Mapping[tuple[str, int], Affine],
    grouped: bool,
) -> Mapping[str, Constant]:
    weight = stored.get(f"{path}.weight")
    if module.kind.startswith("Conv") and weight is not None:
        return _convolution(module, weight, grouped=grouped)
    if module.kind == "Linear" and weight is not None:
        return {"out_features": weight[0], "in_features": weight[1]}
    if module.kind == "Embedding" and weight is not None:
        return {"embedding_dim": weight[1]}
    if module.kind == "PReLU" and weight is not None:
        return {"num_parameters": weight[0]}
    if module.kind in ("LayerNorm", "RMSNorm"):
        shape = integers(module.args, "normalized_shape")
        sizes = weight or tuple(
            arguments.get((f"{path}:normalized_shape.{dim}", 0), Affine(length))
            for dim, length in enumerate(shape)
        )
        return {"normalized_shape": tuple(Extent(size) for size in sizes)}
    name = next((n for n in ("num_features", "num_channels") if n in module.args), None)
    if name is None:
        return {}
    full = Affine(integer(module.args, name))
    tensors = (stored[f"{path}.{t}"] for t in ("weight", "running_mean") if f"{path}.{t}" in stored)
    channels = next((shape[0] for shape in tensors), arguments.get((f"{path}:{name}", 0), full))
    found: dict[str, Constant] = {name: channels}
    if grouped:
        groups = integer(module.args, "num_groups")
        found["num_groups"] = _divided(channels, full.constant // groups)
    return found


def module_constants(
    graph: Graph,
    stored: Mapping[str, tuple[Affine, ...]],
    arguments: Mapping[tuple[str, int], Affine],
    grouped: set[str],
) -> dict[str, dict[str, Constant]]:
    """Arguments that change, by module; `grouped` are those whose groups are removed whole."""
    found: dict[str, dict[str, Constant]] = {}
    for path, module in graph.modules.items():
        constants = _of_module(path, module, stored, arguments, path in grouped)
        changing: dict[str, Constant] = {
            name: value
            for name, value in constants.items()
            if not isinstance(value, float) and moves(value)
        }
        if changing:
            found[path] = changing
    return found
