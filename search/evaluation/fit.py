"""Whether a dataset fits a network, and how its examples are laid out for it. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from espalier.format.ir import Batch, Graph, size
from espalier.format.operators import infer
from search.evaluation.data import Description
from search.evaluation.errors import DatasetMismatch, LabelsNeeded
from search.spec import Metric

Layout = Literal["as_stored", "channels_last", "no_channel"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a dataset meets a network.

    Attributes:
        layout: what turns a stored example into the network's input: nothing, moving the last
            dimension to the front, or adding a first one.
        input_shape: of one example, as the network takes it.
        dtype: that the network takes: `"float32"`, or whole numbers if it begins with an embedding.
        outputs: how many numbers it yields an example.
        order: by class of the data, its number in the network; empty where both are the same.
    """

    layout: Layout
    input_shape: tuple[int, ...]
    dtype: str
    outputs: int
    order: tuple[int, ...] = ()

    @property
    def integers(self) -> bool:
        return self.dtype != "float32"


def layout_of(stored: tuple[int, ...], wanted: tuple[int, ...]) -> Layout:
    """How an example of shape `stored` becomes the network's `wanted` one.

    Where a shape reads both ways (3 x 3 x 3), it is taken as stored.

    Raises:
        DatasetMismatch: it cannot.
    """
    if stored == wanted:
        return "as_stored"
    if len(stored) == 3 and (stored[2], stored[0], stored[1]) == wanted:
        return "channels_last"
    if wanted == (1, *stored):
        return "no_channel"
    raise DatasetMismatch(
        f"the examples have shape {stored}, but the network takes {wanted}: resize or rearrange "
        "the data, or pack the network with an example of this shape"
    )


def _vocabulary(graph: Graph) -> int | None:
    """The least number of rows among the embeddings that read the network's input directly."""
    rows = [
        graph.stored[f"{node.target}.weight"].shape[0]
        for node, module in graph.calls()
        if module.kind == "Embedding" and node.inputs[0] in graph.inputs
    ]
    return min(rows, default=None)


def order_of(data: Sequence[str], network: Sequence[str]) -> tuple[int, ...]:
    """The network's number for each class of the data: folders of images are sorted by name.

    Empty where they are the same, or where one has no names: then numbers are taken as they are.

    Raises:
        DatasetMismatch: the network has no class of such a name, or several.
    """
    if not data or not network or tuple(data) == tuple(network):
        return ()
    number = {name: index for index, name in enumerate(network)}
    strange = next((name for name in data if name not in number), None)
    if strange is not None:
        raise DatasetMismatch(
            f"the data names a class {strange!r}, which is none of the network's "
            f"({', '.join(map(repr, network[:3]))} ...): rename it, or pack the network without "
            "names, and the data's numbers are taken as they are"
        )
    times = Counter(data) | Counter(network)  # the larger count of each
    twice = next((name for name in data if times[name] > 1), None)
    if twice is not None:
        raise DatasetMismatch(
            f"two classes are named {twice!r} and cannot be told apart: rename one in the data and "
            "the network, or pack the network without names, and the data's numbers are taken as "
            "they are"
        )
    order = tuple(number[name] for name in data)
    return () if order == tuple(range(len(order))) else order


def check_fits(data: Description, graph: Graph, classes: Sequence[str] = ()) -> Fit:
    """How the dataset meets the network.

    Args:
        classes: names of the network's, in the order of its outputs, if it has any.

    Raises:
        DatasetMismatch: several inputs or outputs, shapes, types, labels or names of classes that
            do not fit; the message names both sides.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DatasetMismatch(
            f"the network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            "evaluation needs one of each"
        )
    (wanted,) = graph.inputs.values()
    integers = wanted.dtype.startswith(("int", "uint"))
    if not integers and wanted.dtype != "float32":
        raise DatasetMismatch(
            f"the network takes {wanted.dtype}; evaluation gives it float32 or whole numbers: pack "
            "network.float() with an example of float32"
        )
    shape = tuple(size(dim) for dim in wanted.shape[1:])
    layout = layout_of(data.example_shape, shape)
    if integers and data.dtype.startswith("float"):
        raise DatasetMismatch(f"the network takes {wanted.dtype}, the data is {data.dtype}")
    rows = _vocabulary(graph)
    if data.input_range is not None and rows is not None:
        low, high = data.input_range
        if low < 0 or high >= rows:
            raise DatasetMismatch(
                f"the inputs reach from {low} to {high}, but the embedding has {rows} rows"
            )
    result = infer(graph)[graph.outputs[0]].shape
    if len(result) != 2 or result[0] != Batch(1):
        raise DatasetMismatch(
            f"the network yields {result}; evaluation needs one row of class scores an example"
        )
    outputs = size(result[1])
    if outputs < 2:
        raise DatasetMismatch("the network yields one number; evaluation needs at least 2 classes")
    if data.largest_label is not None and data.largest_label >= outputs:
        raise DatasetMismatch(
            f"the labels reach {data.largest_label}, but the network tells {outputs} classes "
            f"apart, and labels count from 0: the largest can be {outputs - 1}"
        )
    if len(data.classes) > outputs:
        raise DatasetMismatch(
            f"the data names {len(data.classes)} classes, the network has {outputs} outputs"
        )
    order = order_of(data.classes, classes)
    if max(order, default=0) >= outputs:
        raise DatasetMismatch(
            f"the network names {len(classes)} classes and has {outputs} outputs: pack it with a "
            "name for each"
        )
    return Fit(layout, shape, wanted.dtype, outputs, order)


def check_metric(metric: Metric, *, labelled: bool, classes: int) -> None:
    """Refuse a metric that the data cannot give.

    Raises:
        LabelsNeeded: it needs labels; names the metrics that can be used.
        DatasetMismatch: it is top5, and there are too few classes for that.
    """
    if not labelled and metric in ("top1", "top5"):
        raise LabelsNeeded(
            f"evaluation.metric {metric} needs labels, which the dataset has not: use agreement "
            "or cross_entropy, both against the original network's outputs",
            "evaluation.metric",
        )
    if metric == "top5" and classes <= 5:
        raise DatasetMismatch(
            f"evaluation.metric top5 says nothing of {classes} classes: use top1 or cross_entropy",
            "evaluation.metric",
        )


def check_augment(kind: str, input_shape: tuple[int, ...]) -> None:
    """Refuse to flip or crop what is no image.

    Raises:
        DatasetMismatch: the inputs are not `(channels, height, width)`.
    """
    if kind != "none" and len(input_shape) != 3:
        raise DatasetMismatch(
            f'finetune.augment "{kind}" needs images, but the inputs have shape {input_shape}: '
            'use "none"',
            "finetune.augment",
        )
