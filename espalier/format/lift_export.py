"""Tracing a user's network with `torch.export`, and saying where it fixes its batch size."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from espalier.format.errors import FormatError
from espalier.format.lift_context import source_line

Example = Tensor | tuple[Tensor, ...]


@contextmanager
def settled(network: nn.Module) -> Iterator[None]:
    """Eval mode with gradients, so that no fused inference kernel is traced; put back after."""
    modes = [(module, module.training) for module in network.modules()]
    gradients = [(p, p.requires_grad) for p in network.parameters() if p.is_floating_point()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in gradients:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)


def examples(example: Example) -> tuple[Tensor, ...]:
    """Detached copies with a batch of at least two: export takes a one for a constant.

    Raises:
        FormatError: not tensors, or batches of different sizes.
    """
    given = example if isinstance(example, tuple) else (example,)
    found = []
    for value in given:
        if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[0] < 1:
            raise FormatError("the example must be a tensor, or a tuple of them, batch first")
        copy = value.detach().clone()
        found.append(copy if len(copy) > 1 else torch.cat([copy, copy]))
    if len({len(value) for value in found}) != 1:
        raise FormatError("the example's tensors must agree in their first dimension, the batch")
    return tuple(found)


def export(network: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Trace the network with a free batch size.

    Raises:
        FormatError: it cannot be traced, or works for one batch size only; names the line.
    """
    shapes = _free_batch(network, inputs, Dim("batch"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on speed and on its own internals
            return torch.export.export(network, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the user's forward raises, or export itself
        if "specialized" in str(error) or "Constraints violated" in str(error):
            place = _where_fixed(network, inputs)
            raise FormatError(
                f"the network fixes its batch size{place}; let it take any, with -1 or x.shape[0]"
            ) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = f"{type(error).__name__}: {' '.join(lines[:2])}"
        raise FormatError(f"the network cannot be traced: {said}") from error


def _free_batch(network: nn.Module, inputs: tuple[Tensor, ...], batch: Any) -> dict[str, Any]:
    """`dynamic_shapes` with the first dimension of every input free, by argument's name."""
    signature = inspect.signature(network.forward)
    try:
        bound = signature.bind(*inputs).arguments
    except TypeError as error:
        raise FormatError(f"the example does not fit the network's forward: {error}") from None
    free = {0: batch}
    return {
        name: tuple(free for _ in value) if isinstance(value, tuple) else free
        for name, value in bound.items()
    }


def _where_fixed(network: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """The line that turned the batch size into a constant, as far as a second trace tells."""
    shapes = _free_batch(network, inputs, Dim.AUTO)
    try:
        exported = torch.export.export(network, inputs, dynamic_shapes=shapes, strict=False)
    except Exception:  # the error that is raised already says enough
        return ""
    lost = _first_without_batch(exported)
    if lost is not None:
        return source_line(lost)
    for guard in _environment(exported).guards:
        frame = guard.sloc.framework_loc
        filename = getattr(frame, "filename", "")
        if filename and "/torch/" not in filename.replace("\\", "/"):
            text = (frame.line or "").strip()
            return f" at {Path(filename).name}:{frame.lineno}" + (f": {text}" if text else "")
    return ""


def _environment(exported: ExportedProgram) -> Any:
    for node in exported.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode.shape_env
    raise FormatError("the network has no inputs")


def _symbols(node: fx.Node) -> set[Any]:
    """Symbols in the shape of a node's tensor, as they were before any was made a constant."""
    value = node.meta.get("val")
    found: set[Any] = set()
    for size in value.shape if isinstance(value, Tensor) else ():
        if isinstance(size, torch.SymInt):
            found |= size.node._expr.free_symbols
    return found


def _first_without_batch(exported: ExportedProgram) -> fx.Node | None:
    for node in exported.graph.nodes:
        reads_batch = any(_symbols(source) for source in node.all_input_nodes)
        if (
            node.op == "call_function"
            and reads_batch
            and isinstance(node.meta.get("val"), Tensor)
            and not _symbols(node)
        ):
            return node  # type: ignore[no-any-return]  # the graph's iterator is untyped
    return None
