"""Making the smaller network: `apply` cuts what it is told, chooses nothing, changes nothing.

The result shares with its source the memory of every tensor that stays whole, and nothing else:
modules, parameters and buffers are objects of its own, so modes, hooks, gradients and
`requires_grad` are independent. Training it in place would write into shared memory: take a
`copy.deepcopy` first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from espalier.format.build import build, graph_of, same_code
from espalier.format.ir import Attr, Graph
from search.graph import shrink
from search.graph.shrink import check
from search.pruning.norms import tensor_of
from search.pruning.positions import Dimension, cuts, everything, relative
from search.space import Kept, SearchSpace

_CONTAINERS = frozenset({dict, OrderedDict, set, list})

M = TypeVar("M", bound=nn.Module)


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
    narrow = _narrow(network, cuts(space, parent, child))
    if same_code(before, after):
        return _recast(network, before, after, narrow)
    return _rebuilt(network, after, narrow)


def _narrow(
    network: fx.GraphModule, taken: Mapping[Dimension, NDArray[np.intp]]
) -> dict[str, Tensor]:
    """The tensors that lose something, cut, by name."""
    narrow: dict[str, Tensor] = {}
    for (name, dim), indices in taken.items():
        source = narrow[name] if name in narrow else tensor_of(network, name).detach()
        index = torch.from_numpy(indices).to(source.device)
        narrow[name] = source.index_select(dim, index)
    return narrow


def _rebuilt(network: fx.GraphModule, after: Graph, narrow: Mapping[str, Tensor]) -> fx.GraphModule:
    """Where constants of the code change: built anew, in the modes of `network`."""
    tensors = {name: narrow.get(name, tensor_of(network, name).detach()) for name in after.stored}
    result = build(after, tensors)
    result.meta = {**network.meta, **result.meta}
    for path, module in result.named_modules():
        module.training = network.get_submodule(path).training
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(tensor_of(network, name).requires_grad)
    return result


def _recast(
    network: fx.GraphModule, before: Graph, after: Graph, narrow: Mapping[str, Tensor]
) -> fx.GraphModule:
    """Where the code stays the same: new modules of the same classes around the tensors."""
    changed: dict[str, dict[str, Attr]] = {}
    for path, module in after.modules.items():
        old = before.modules[path]
        if old is not module:
            args = {name: arg for name, arg in module.args.items() if arg != old.args[name]}
            changed[path] = args
    result = _twin(network, "", narrow, changed)
    result.meta = {**network.meta, "espalier": after}
    return result


def _twin(
    module: M,
    path: str,
    narrow: Mapping[str, Tensor],
    changed: Mapping[str, Mapping[str, Attr]],
) -> M:
    """A module of the same class and state around the same memory, or the narrower tensors."""
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
            tensor = narrow.get(prefix + name, parameter)
            state["_parameters"][name] = nn.Parameter(tensor, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            found = narrow.get(prefix + name)
            state["_buffers"][name] = buffer.detach() if found is None else found
    for name, child in module._modules.items():
        if child is not None:
            state["_modules"][name] = _twin(child, prefix + name, narrow, changed)
    return twin
