"""From a user's network to a graph of ours, and to a package.

`torch.export` traces the network in eval mode; every ATen call is then translated by a table.
What has no entry is refused by name. The network is only read: its modes are put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from espalier.format.build import as_built, build, graph_of, tensors_of
from espalier.format.check import check
from espalier.format.classes import check_classes
from espalier.format.errors import EspalierError, FormatError
from espalier.format.ir import Graph
from espalier.format.lift_calls import compare, pruned, start, translate
from espalier.format.lift_context import unsupported
from espalier.format.lift_export import Example, examples, export, settled
from espalier.format.manifest import Preprocessing
from espalier.format.package import write_package


class PackingWarning(UserWarning):
    """A packed network that does not do what the original does, in a case that it names."""


@dataclass(frozen=True, slots=True)
class _Lifted:
    """A translated network.

    Attributes:
        places: the exported call that each node comes from.
        notes: where it does not do what the original does, and the user's lines.
    """

    graph: Graph
    tensors: Mapping[str, Tensor]
    places: Mapping[str, fx.Node]
    notes: tuple[tuple[str, str], ...]


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever else goes wrong with a network is a refusal of it."""
    try:
        yield
    except EspalierError:
        raise
    except Exception as error:
        raise FormatError(
            f"the network cannot be packed ({type(error).__name__}: {error})"
        ) from error


def lift(network: nn.Module, example: Example) -> tuple[Graph, dict[str, Tensor]]:
    """Translate a network into a graph and copies of the tensors it needs.

    Args:
        example: one input tensor, or a tuple of them, batch first; only shapes and types matter.
    Raises:
        UnsupportedOperator: an operator is not in the table; names it and the line that called it.
        FormatError: the network cannot be traced, fixes its batch size, or returns other things
            than tensors.
    """
    with _refusing():
        lifted = _lifted(network, examples(example))
    return lifted.graph, dict(lifted.tensors)


def _lifted(network: nn.Module, inputs: tuple[Tensor, ...]) -> _Lifted:
    with settled(network):
        exported = export(network, inputs)
    state = start(network, exported)
    outputs = translate(state, exported)
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
    graph = pruned(
        state,
        Graph(tuple(state.nodes), state.modules, state.stored, state.inputs, outputs, single),
    )
    compare(state, graph)
    check(graph)
    tensors = {name: _copied(state.tensors[name]) for name in graph.stored}
    return _Lifted(graph, tensors, state.places, tuple(dict.fromkeys(state.notes)))


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
        network: any module; one that `load` or `build` made is written with its own graph, unless
            anything of it but the values of its tensors was changed since.
        example: an input, or a tuple of them, batch first.
        preprocessing: how raw data becomes the network's input.
        classes: names of the outputs, if it classifies; one for each, or none.
        extra: further facts for the manifest, as JSON values.
    Returns:
        The path written.
    Raises:
        FormatError: see `lift`; or names for more or fewer classes than there are scores.
    """
    if as_built(network):
        graph = _with_frozen(graph_of(network), network)
        tensors = {key: _copied(value) for key, value in tensors_of(network).items()}
        notes = network.meta["manifest"].notes if "manifest" in network.meta else ()
    else:
        with _refusing():
            lifted = _lifted(network, examples(example))
            _check(network, lifted, examples(example))
            told = lifted.notes + _alone(network, lifted, examples(example))
        graph, tensors = lifted.graph, dict(lifted.tensors)
        for note, line in told:
            warnings.warn(f"{note}{line}", PackingWarning, stacklevel=2)
        notes = tuple(dict.fromkeys(note for note, _ in told))  # no line of the user's code
    check_classes(classes, graph)
    return write_package(
        path,
        {
            "name": name or type(network).__name__,
            "preprocessing": preprocessing or Preprocessing(),
            "classes": tuple(classes),
            "notes": notes,
            "extra": dict(extra or {}),
        },
        graph,
        {key: value.view(-1).view(torch.uint8).numpy() for key, value in tensors.items()},
    )


def _with_frozen(graph: Graph, network: nn.Module) -> Graph:
    """The graph with `requires_grad` as it is now."""
    needs = {n: p.requires_grad for n, p in network.named_parameters(remove_duplicate=False)}
    stored = {
        name: replace(item, frozen=item.trainable and not needs.get(name, True))
        for name, item in graph.stored.items()
    }
    return graph if stored == graph.stored else replace(graph, stored=stored)


def _check(network: nn.Module, lifted: _Lifted, inputs: tuple[Tensor, ...]) -> None:
    """Run both on the example: a translation that computes something else is never written."""
    rebuilt = build(lifted.graph, lifted.tensors)
    with settled(network), torch.random.fork_rng(devices=[]):
        expected = network(*(value.clone() for value in inputs))
        try:
            found = rebuilt(*(value.clone() for value in inputs))
        except Exception as error:
            raise _cannot_run(rebuilt, lifted, inputs, error) from error
    if difference := _difference(expected, found):
        raise FormatError(f"the packed network {difference}")


def _difference(expected: Any, found: Any) -> str | None:
    """What a network gives that another does not; of a tensor each, or of several."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        expected, found = [expected], [found]
    for left, right in zip(expected, found, strict=True):
        if left.shape != right.shape:
            return f"gives {tuple(right.shape)}, yours {tuple(left.shape)}"
        if not torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True):
            worst = (left.double() - right.double()).abs().max().item()
            return f"computes something else (off by {worst:.3g})"
    return None


def _alone(
    network: nn.Module, lifted: _Lifted, inputs: tuple[Tensor, ...]
) -> tuple[tuple[str, str], ...]:
    """Notes on a single example, if it is treated otherwise: a trace holds for two or more."""
    if lifted.notes:  # which are on that already
        return ()
    rebuilt, one = build(lifted.graph, lifted.tensors), tuple(value[:1] for value in inputs)
    with settled(network), torch.random.fork_rng(devices=[]):
        try:
            expected = network(*(value.clone() for value in one))
        except Exception:  # it takes several only
            return ()
        try:
            difference = _difference(expected, rebuilt(*(value.clone() for value in one)))
        except Exception as error:  # what it cannot run, or yours returns otherwise
            difference = f"differs ({type(error).__name__})"
    if difference is None:
        return ()
    note = (
        f"the packed network {difference} for a single example, which your code treats otherwise "
        "than several"
    )
    return ((note, ""),)


class _Steps(fx.Interpreter):
    """Runs a network node by node; `at` is the name of the last one begun."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        return super().run_node(n)


def _cannot_run(
    rebuilt: fx.GraphModule, lifted: _Lifted, inputs: tuple[Tensor, ...], error: Exception
) -> FormatError:
    """The refusal of a translation that does not run, by the call where it stops."""
    said = f"{type(error).__name__}: {error}"
    steps = _Steps(rebuilt)
    try:
        steps.run(*(value.clone() for value in inputs))
    except Exception:
        if steps.at in lifted.places:
            return unsupported(lifted.places[steps.at], f"cannot be carried ({said})")
    return FormatError(f"the packed network does not run ({said})")
