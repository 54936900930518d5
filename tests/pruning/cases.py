"""The network zoo as search spaces, and random cuts of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from espalier.format.build import build
from espalier.format.ir import Graph
from espalier.format.lift import lift
from espalier.format.operators import integer
from search.graph import space_of
from search.pruning import everything
from search.space import Kept, Member, Plan, SearchSpace
from tests.networks import ZOO


@dataclass(frozen=True)
class Case:
    """One network of the zoo.

    Attributes:
        original: as the user wrote it.
        network: as Espalier carries it.
        example: two inputs.
        space: its channel groups.
    """

    original: nn.Module
    network: fx.GraphModule
    example: Tensor
    space: SearchSpace


@functools.cache
def _lifted(name: str) -> tuple[nn.Module, Tensor, Graph, dict[str, Tensor]]:
    original, example = ZOO[name]()
    return original, example, *lift(original, example)


@functools.cache
def case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """A network by its name in the zoo. Shared between tests: nobody may change it."""
    original, example, graph, tensors = _lifted(name)
    if dtype == torch.float64:  # so that agreement can be asked for to nine digits
        original, example = copy.deepcopy(original).double(), example.double()
        tensors = {key: t.double() if t.is_floating_point() else t for key, t in tensors.items()}
        graph = dataclasses.replace(
            graph,
            stored={
                key: dataclasses.replace(entry, dtype=str(tensors[key].dtype).split(".")[1])
                for key, entry in graph.stored.items()
            },
            inputs={
                key: dataclasses.replace(entry, dtype="float64")
                for key, entry in graph.inputs.items()
            },
        )
    return Case(original, build(graph, tensors), example, space_of(graph))


def output(network: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        result = network(example)
    assert isinstance(result, Tensor)
    return result


def random_kept(
    space: SearchSpace, generator: np.random.Generator, groups: Sequence[int] | None = None
) -> Kept:
    """A random subset of the channels of some groups, of all by default; at least one goes."""
    kept = list(everything(space))
    for index in range(len(kept)) if groups is None else groups:
        channels = space.groups[index].channels
        width = int(generator.integers(1, max(2, channels)))
        chosen = generator.choice(channels, size=width, replace=False)
        kept[index] = tuple(sorted(chosen.tolist()))
    return tuple(kept)


def plan_of(kept: Kept) -> Plan:
    return tuple(map(len, kept))


def normalised(space: SearchSpace) -> set[int]:
    """Groups whose channels a normalisation spans, so that the ones kept feel those removed."""

    def spans(member: Member) -> bool:
        path, _, local = member.tensor.rpartition(".")
        module = space.graph.modules.get(path)
        if module is None or local != "weight":
            return False
        if module.kind == "GroupNorm":  # unless a channel is all that is normalised together
            together = integer(module.args, "num_channels") // integer(module.args, "num_groups")
            return len(member.positions[0]) != together
        return module.kind == "LayerNorm"

    return {index for index, group in enumerate(space.groups) if any(map(spans, group.members))}


def masked_output(subject: Case, kept: Kept) -> Tensor:
    """Output of the dense network whose consumers have zeros where removed channels come in."""
    state = subject.network.state_dict()
    for group, channels in zip(subject.space.groups, kept, strict=True):
        gone = sorted(set(range(group.channels)).difference(channels))
        for member in group.members:
            if member.role == "consumes" and gone:
                positions = torch.tensor([p for channel in gone for p in member.positions[channel]])
                tensor = state[member.tensor]
                state[member.tensor] = tensor.index_fill(member.dim, positions, 0.0)
    with torch.no_grad():
        result = functional_call(subject.network, state, subject.example)
    assert isinstance(result, Tensor)
    return result
