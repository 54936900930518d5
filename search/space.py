"""Channel groups, plans and the search space: the vocabulary that everything in `search` shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from espalier.format.ir import Graph

Plan = tuple[int, ...]
"""Channels kept per group, in the order of `SearchSpace.groups`."""

Kept = tuple[tuple[int, ...], ...]
"""Indices of the kept channels per group, ascending. `tuple(map(len, kept))` is the plan."""

Choices = tuple[tuple[int, ...], ...]
"""The widths that each group may keep, ascending; the last is the full width."""


@dataclass(frozen=True, slots=True)
class Affine:
    """A size that follows from the plan: `constant + sum(positions * plan[group])`.

    Attributes:
        constant: positions that no group owns.
        terms: pairs of (group index, positions that each kept channel adds), groups ascending.
    """

    constant: int
    terms: tuple[tuple[int, int], ...] = ()

    def at(self, plan: Plan) -> int:
        return self.constant + sum(positions * plan[group] for group, positions in self.terms)


@dataclass(frozen=True, slots=True)
class Extent:
    """One dimension of a tensor as a function of the plan; `batch` marks multiples of the batch."""

    size: Affine
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """Where a group's channels sit in one stored tensor.

    Attributes:
        tensor: name of the stored tensor, as in `Graph.stored`.
        dim: the dimension that is cut.
        positions: for each channel, the indices it owns along `dim`; every channel owns equally
            many.
        role: `"produces"` (rows of a convolution or linear map, its bias, an embedding),
            `"consumes"` (columns of the next one) or `"follows"` (normalisation and other
            per-channel tensors).
    """

    tensor: str
    dim: int
    positions: tuple[tuple[int, ...], ...]
    role: str


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that can only be removed together, one decision.

    Attributes:
        name: path of its first producer; unique within a space.
        channels: how many there are; a channel may be a head, or a set of coupled channels.
        members: every stored tensor that loses something when a channel goes.
    """

    name: str
    channels: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Channels that stay, and why, in words for the user."""

    name: str
    channels: int
    reason: str


Constant = float | Affine | tuple[Extent, ...]
"""An attribute that follows from the plan: a size or index, or a list of them; a number is a
value that no longer follows from the tensors' own sizes and has to be spelled out."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What can be pruned in a network, and every size as a function of the plan.

    Attributes:
        graph: the network at full width.
        groups: the decisions, in the order of the network.
        excluded: what is left out, with reasons.
        node_shapes: by node name.
        stored_shapes: by stored tensor's name.
        layer_channels: channels of the tensors that layers with weights make, by node name.
        node_constants: attributes of nodes that change with the plan, by node and attribute.
        module_constants: constructor's arguments that change, by module path and argument.
    """

    graph: Graph
    groups: tuple[ChannelGroup, ...]
    excluded: tuple[Exclusion, ...]
    node_shapes: Mapping[str, tuple[Extent, ...]]
    stored_shapes: Mapping[str, tuple[Affine, ...]]
    layer_channels: Mapping[str, Affine] = field(default_factory=dict)
    node_constants: Mapping[str, Mapping[str, Constant]] = field(default_factory=dict)
    module_constants: Mapping[str, Mapping[str, Constant]] = field(default_factory=dict)

    @property
    def full(self) -> Plan:
        """The plan that keeps everything."""
        return tuple(group.channels for group in self.groups)


def widths(channels: int, *, multiple: int = 1, minimum: int = 1) -> tuple[int, ...]:
    """Channel counts that a group may keep, ascending: multiples of `multiple` and the full width.

    Args:
        channels: the full width, always allowed.
        minimum: the least that may be kept; capped by `channels`.
    """
    least = max(1, min(minimum, channels))
    steps = range(-(-least // multiple) * multiple, channels, multiple)
    return (*steps, channels)


def smallest(choices: Sequence[Sequence[int]]) -> Plan:
    """The narrowest plan, from the allowed widths of each group (ascending)."""
    return tuple(options[0] for options in choices)
