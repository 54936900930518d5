"""What users are told of a network: inputs, costs, what can be pruned, what cannot and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from espalier.format.classes import check_classes
from espalier.format.ir import TensorType, size
from espalier.format.operators import infer
from espalier.format.package import read_package
from search.cost import CostModel, choices_of, smallest_cost
from search.cost.shares import macs_around
from search.graph import head_of, space_of
from search.spec import RoundingSpec
from search.versions import NEWEST


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class GroupView(_Frozen):
    """Channels that can only be removed together."""

    name: str = Field(description="path of the layer that produces them")
    channels: int


class PrunableGroupView(GroupView):
    """A group that plans decide on."""

    macs: int | None = Field(
        None,
        description="of the layers that make or read its channels: all that would go with it; a "
        "layer between two groups counts for both. Null if it was uploaded before this was counted",
    )


class ExcludedView(GroupView):
    """Channels that stay."""

    reason: str = Field(description="why they cannot be pruned")


class TensorView(_Frozen):
    """An input or output of the network."""

    name: str
    shape: tuple[int, ...] = Field(description="without the batch")
    dtype: str


class NetworkDescription(_Frozen):
    """What a network is made of, and what of it can be pruned."""

    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    head: str | None = Field(
        None,
        description="softmax, log_softmax, sigmoid or logsigmoid, if the network ends in one: then "
        "jobs score and train by what feeds it; null if it yields class scores, or if it was "
        "uploaded before this was looked for",
    )
    notes: tuple[str, ...] = Field(
        (), description="where the packed network does not do what the original did"
    )
    classes: tuple[str, ...] = Field(description="empty if the package names none")
    operators: dict[str, int] = Field(description="how often each operator and module is called")
    cost: dict[str, int] = Field(
        description="`macs`, `params`, `weight_bytes`, `peak_activation_bytes` for one example"
    )
    smallest_cost: dict[str, int] = Field(
        description="with one channel left in every group: no budget below this can be met"
    )
    groups: tuple[PrunableGroupView, ...]
    excluded: tuple[ExcludedView, ...]


def _tensor(name: str, tensor: TensorType) -> TensorView:
    return TensorView(
        name=name, shape=tuple(size(dim) for dim in tensor.shape[1:]), dtype=tensor.dtype
    )


def describe_network(path: Path) -> tuple[str, NetworkDescription]:
    """The name in a package, and what its network is.

    Raises:
        FormatError: the package cannot be used.
        TooManyPositions, NetworkTooLarge: its analysis would take too much.
    """
    package = read_package(path)
    check_classes(package.manifest.classes, package.graph)
    graph, space = package.graph, space_of(package.graph)
    cost, types, head = CostModel(space), infer(graph), head_of(graph)
    kinds = Counter(
        graph.kind_of(node) for node in graph.nodes if node.op not in ("input", "tensor")
    )
    return package.manifest.name, NetworkDescription(
        inputs=tuple(_tensor(name, kind) for name, kind in graph.inputs.items()),
        outputs=tuple(_tensor(name, types[name]) for name in graph.outputs),
        head=None if head is None else head.kind,
        notes=package.manifest.notes,
        classes=package.manifest.classes,
        operators=dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))),
        cost=dict(cost.full),
        smallest_cost=smallest_cost(cost, choices_of(space, RoundingSpec(multiple=1), NEWEST)),
        groups=tuple(
            PrunableGroupView(name=group.name, channels=group.channels, macs=macs)
            for group, macs in zip(space.groups, macs_around(cost, space.full), strict=True)
        ),
        excluded=tuple(
            ExcludedView(name=item.name, channels=item.channels, reason=item.reason)
            for item in space.excluded
        ),
    )
