"""What is known of a network before anything runs: cost, and what a budget can reach."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.views import GroupWidthsView, LimitView, ValidationView, WidthsView
from espalier.format.classes import check_classes
from espalier.format.errors import FormatError
from espalier.format.ir import Graph
from models.blobs import BlobStore, check_file
from search.cost import (
    Budget,
    CostModel,
    check_reachable,
    choices_of,
    smallest_cost,
    without_choice,
)
from search.description import ExcludedView
from search.evaluation.data import Description
from search.evaluation.errors import DatasetMismatch
from search.evaluation.fit import check_augment, check_fits, check_metric
from search.evaluation.splits import sizes
from search.graph import space_of
from search.space import Choices, SearchSpace
from search.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Analysis:
    """A network's channel groups and costs."""

    space: SearchSpace
    cost: CostModel

    @classmethod
    def of(cls, graph: Graph) -> Analysis:
        space = space_of(graph)
        return cls(space, CostModel(space))

    @property
    def size_bytes(self) -> int:
        """About what it takes: nodes, positions of channels, tables of coefficients."""
        members = (member for group in self.space.groups for member in group.members)
        positions = sum(len(member.positions) * len(member.positions[0]) for member in members)
        return 1000 * len(self.space.graph.nodes) + 110 * positions + 8 * self.cost.terms.entries


class Analyses:
    """The networks analysed last, by digest. Safe to share between threads.

    They are made one at a time: each may take seconds and, for a while, hundreds of MiB.

    Args:
        size_bytes: the most that those that are kept take; EfficientNet-B7 takes 120 MiB.
    """

    def __init__(self, size_bytes: int = 400 * 2**20) -> None:
        self._size_bytes = size_bytes
        self._known: OrderedDict[str, Analysis] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def get(self, digest: str, make: Callable[[], Analysis]) -> Analysis:
        """The analysis of that network; made if it is not among those kept."""
        known = self._kept(digest)
        if known is not None:
            return known
        with self._making:
            known = self._kept(digest)  # of another thread, meanwhile
            if known is None:
                known = make()
                self._keep(digest, known)
        return known

    def _kept(self, digest: str) -> Analysis | None:
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def _keep(self, digest: str, made: Analysis) -> None:
        with self._lock:
            self._known[digest] = made
            while sum(each.size_bytes for each in self._known.values()) > self._size_bytes:
                self._known.popitem(last=False)


@contextmanager
def readable(store: BlobStore, digest: str) -> Iterator[Path]:
    """A file with the blob's bytes, checked: its own where the store is local, else a copy.

    Raises:
        BlobMissing: there is no such blob.
        BlobCorrupt: the store holds other bytes than it should.
    """
    own = store.local_path(digest)
    if own is not None:
        check_file(digest, own)
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        path = Path(folder) / digest
        store.fetch(digest, path)
        yield path


def widths_of(space: SearchSpace, choices: Choices) -> tuple[GroupWidthsView, ...]:
    """What each group may keep, by name."""
    return tuple(
        GroupWidthsView(name=group.name, channels=group.channels, widths=widths)
        for group, widths in zip(space.groups, choices, strict=True)
    )


def check_job(
    spec: JobSpec,
    analysis: Analysis,
    classes: Sequence[str],
    dataset: Mapping[str, Any],
    fast: WidthsView | None = None,
) -> ValidationView:
    """See that a job can be done, as far as that can be known before it runs.

    Args:
        classes: names of the network's, if it has any.
        dataset: what was found in the dataset, see `search.evaluation.data.Description`.
        fast: the widths that run fast on the target, where they are known.
    Raises:
        UnreachableBudget: no allowed plan is within the budget.
        DatasetError: the dataset does not fit the network or the splits asked for.
    """
    description = Description.model_validate(dataset)
    try:
        check_classes(classes, analysis.space.graph)
    except FormatError as error:  # of a network that came before its names were compared
        raise DatasetMismatch(str(error), "network") from None
    fit = check_fits(description, analysis.space.graph, classes)
    check_augment(spec.finetune.augment, fit.input_shape)
    check_metric(spec.evaluation.metric, labelled=description.labelled, classes=fit.outputs)
    sizes(
        description.train_examples,
        description.holdout_examples,
        description.test_examples,
        spec.evaluation,
        calibrates=spec.calibrates,
    )
    # Where widths shall be fast these are all: a budget that asks for the narrowest gets them.
    choices = choices_of(analysis.space, spec.rounding, spec.version)
    if spec.rounding.multiple != "auto":
        fast = WidthsView(target=None, groups=widths_of(analysis.space, choices))
    budget = Budget.resolve(spec.budget, analysis.cost.full)
    check_reachable(analysis.cost, budget, choices)
    least = smallest_cost(analysis.cost, choices)
    return ValidationView(
        spec=spec.model_dump(mode="json"),
        budget={
            name: LimitView(limit=limit, original=analysis.cost.full[name], smallest=least[name])
            for name, limit in budget.limits.items()
        },
        groups=len(analysis.space.groups),
        widths=fast,
        without_choice=tuple(
            ExcludedView(name=item.name, channels=item.channels, reason=item.reason)
            for item in without_choice(analysis.space, choices, spec.rounding, spec.version)
        ),
    )
