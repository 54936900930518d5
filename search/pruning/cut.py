"""Making the smaller network: `apply` cuts what it is told, chooses nothing, changes nothing.

The result shares with its source the memory of every tensor that stays whole, and nothing else:
modules, parameters and buffers are objects of its own, so modes, hooks, gradients and
`requires_grad` are independent. Training it in place would write into shared memory: `clone` it
first.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from espalier.format.build import build, graph_of, tensors_of
from espalier.format.build_code import same_code
from espalier.format.ir import Attr, Graph
from search.graph import shrink
from search.graph.shrink import check
from search.pruning.positions import Dimension, cuts, everything, relative
from search.space import Kept, SearchSpace

M = TypeVar("M", bound=nn.Module)

Narrow = Callable[[str, Tensor], Tensor]
"""From a tensor's name and the tensor to the new network's: a view or copy, without gradient."""

_CONTAINERS = frozenset({dict, OrderedDict, set, list})


def apply(network: fx.GraphModule, space: SearchSpace, kept: Kept) -> fx.GraphModule:
    """The full network without the channels that are not kept.

    Args:
        network: as `load` or `build` made it, at full width.
        space: its channel groups.
        kept: the channels that stay, per group.

    Returns:
        A network like the one given, in the same mode, whose tensors share memory with it where
        they lose nothing.

    Raises:
        ValueError: `kept` does not fit the groups.
    """
    return apply_further(network, space, everything(space), kept)


def apply_further(
    network: fx.GraphModule, space: SearchSpace, parent: Kept, child: Kept
) -> fx.GraphModule:
    """A network that was cut at `parent`, and perhaps trained since, cut further to `child`.

    Args:
        network: as `apply` made it with `parent`.
        space: of the full network.
        parent: the channels that `network` has.
        child: the channels that stay; `parent` has all of them. Numbered as in the full network.

    Returns:
        As `apply`.

    Raises:
        ValueError: `parent` or `child` do not fit the groups or each other.
    """
    check(space, parent)
    before, after = graph_of(network), shrink(space, child)
    relative(parent, child)
    taken = _by_tensor(cuts(space, parent, child))

    def narrow(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        for dim, indices in taken.get(name, ()):
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor

    if same_code(before, after):
        result = _twin(network, "", narrow, _changed_arguments(before, after))
        result.meta = {**network.meta, "espalier": after}
        return result
    return _rebuilt(network, after, narrow)


def clone(network: fx.GraphModule) -> fx.GraphModule:
    """The same network with memory of its own, which can be trained.

    As `copy.deepcopy`, without writing and compiling the code anew: that is shared, so the `graph`
    of neither network may be edited afterwards.
    """
    return _twin(network, "", lambda _, tensor: tensor.detach().clone(), {})


def with_tensors(network: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The same network around other tensors of the same shapes, where they are given.

    Args:
        tensors: by name; used, not copied.
    Returns:
        A network that shares all other tensors with the one given.
    """
    return _twin(network, "", lambda name, old: tensors.get(name, old).detach(), {})


def _by_tensor(
    taken: Mapping[Dimension, NDArray[np.intp]],
) -> Mapping[str, Sequence[tuple[int, Tensor]]]:
    """By tensor: dimensions and what to take along them."""
    result: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for (name, dim), indices in taken.items():
        result[name].append((dim, torch.from_numpy(indices)))
    return result


def _changed_arguments(before: Graph, after: Graph) -> dict[str, dict[str, Attr]]:
    """By module: the constructor's arguments that differ."""
    changed: dict[str, dict[str, Attr]] = {}
    for path, module in after.modules.items():
        old = before.modules[path]
        if old is not module:
            args = {name: arg for name, arg in module.args.items() if arg != old.args[name]}
            changed[path] = args
    return changed


def _rebuilt(network: fx.GraphModule, after: Graph, narrow: Narrow) -> fx.GraphModule:
    """Where constants of the code change: built anew, in the modes of `network`."""
    result = build(after, {name: narrow(name, old) for name, old in tensors_of(network).items()})
    result.meta = {**network.meta, **result.meta}
    for path, module in result.named_modules():
        module.training = network.get_submodule(path).training
    trained = dict(network.named_parameters(remove_duplicate=False))
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(trained[name].requires_grad)
    return result


def _twin(module: M, path: str, narrow: Narrow, changed: Mapping[str, Mapping[str, Attr]]) -> M:
    """A module of the same class and state around the tensors that `narrow` makes of its own."""
    twin = object.__new__(type(module))
    state = twin.__dict__
    for name, value in module.__dict__.items():
        # Hooks, parameters and submodules sit in containers, which must not be shared.
        state[name] = value.copy() if type(value) in _CONTAINERS else value
    # A module calls its constructor's arguments by the same names.
    state.update(changed.get(path, {}))
    prefix = f"{path}." if path else ""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            tensor = narrow(prefix + name, parameter)
            state["_parameters"][name] = nn.Parameter(tensor, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            state["_buffers"][name] = narrow(prefix + name, buffer)
    for name, child in module._modules.items():
        if child is not None:
            state["_modules"][name] = _twin(child, prefix + name, narrow, changed)
    return twin
