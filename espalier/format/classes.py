"""Names of the classes that a network tells apart, against its outputs."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.format.errors import FormatError, LimitExceeded
from espalier.format.ir import Batch, Graph, size
from espalier.format.operators import infer

_NAMES_BYTES = 2**20


def score_count(graph: Graph) -> int | None:
    """Class scores an example, if the network's one output is a row of them; else `None`."""
    if len(graph.outputs) != 1:
        return None
    shape = infer(graph)[graph.outputs[0]].shape
    return size(shape[1]) if len(shape) == 2 and shape[0] == Batch(1) else None


def check_classes(classes: Sequence[str], graph: Graph) -> None:
    """See that every class score has a name, if any has, and that the names can be listed.

    Raises:
        FormatError: there are more or fewer names than scores.
        LimitExceeded: they take more than 1 MiB together.
    """
    size_bytes = sum(len(name.encode("utf-8", "surrogatepass")) for name in classes)
    if size_bytes > _NAMES_BYTES:
        raise LimitExceeded(
            f"the names of classes take {size_bytes} bytes, above the limit of {_NAMES_BYTES}: "
            "shorten them"
        )
    scores = score_count(graph)
    if classes and scores is not None and len(classes) != scores:
        raise FormatError(
            f"{len(classes)} classes are named, but the network gives {scores} scores an example: "
            "pack it with a name for each of them in their order, or with none"
        )
