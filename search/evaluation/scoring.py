"""Recalibrates and runs cuts of one network on fixed examples, quickly.

Statistics are found layer by layer (`recalibrate.Layerwise`), outputs come from the folded form
(`inference.Inference`); both start where an earlier candidate of the same beginning left values
(`prefixes`). The results are the same to the last bit whatever was scored before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, fx

from espalier.format.build import graph_of
from espalier.format.operators import infer
from search.evaluation.inference import Inference
from search.evaluation.prefixes import Cache, digests, size_of
from search.evaluation.recalibrate import Layerwise, can_go_layerwise, recalibrate, tracked_norms

LAYERWISE_BYTES = 2**30
"""Live activations of all calibration examples; above it they go batch after batch."""

_CPU_BATCH = 32  # activations of small networks stay in the cache: measured, ResNet-56
_HELD_BYTES = 256 * 2**20  # preprocessed inputs of a split that are kept


class Inputs:
    """A split's inputs in a fixed order, by batches.

    Args:
        count: how many examples there are.
        batch: how many make a batch.
        read: gives the inputs of the examples from one place up to another.
    """

    def __init__(self, count: int, batch: int, read: Callable[[int, int], Tensor]) -> None:
        self.count, self.batch, self.read = count, batch, read
        self._held: dict[int, Tensor] = {}
        self._bytes = 0

    def batches(self, stop: int, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The batches from one place up to another, each with its own place; both between batches.

        The last one is smaller where `stop` cuts it off.
        """
        for at in range(start, min(stop, self.count), self.batch):
            yield at, self._at(at)[: stop - at]

    def _at(self, at: int) -> Tensor:
        if at in self._held:
            return self._held[at]
        inputs = self.read(at, min(at + self.batch, self.count))
        if self._bytes + inputs.nbytes <= _HELD_BYTES:
            self._bytes += inputs.nbytes
            self._held[at] = inputs
        return inputs


def batch_of(batch_size: int, device: torch.device) -> int:
    """How many examples are run at once."""
    return min(batch_size, _CPU_BATCH) if device.type == "cpu" else batch_size


class Scorer:
    """See the module.

    Args:
        original: at full width; the widest network that is scored.
        calibration, holdout: the inputs.
        batch_size: of batch-norm in training mode, where statistics are not found layer by layer.
        dtype: in which outputs are computed; `None` for the network's own.
        cache: of what candidates share.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        calibration: Inputs,
        holdout: Inputs,
        *,
        batch_size: int,
        dtype: torch.dtype | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._original = original
        self._calibration, self._holdout = calibration, holdout
        self._batch_size, self._dtype = batch_size, dtype
        self.cache = Cache() if cache is None else cache

    def recalibrate(self, network: fx.GraphModule, count: int | None = None) -> None:
        """Batch-norm statistics from the first `count` calibration examples (all), in place."""
        count = self._calibration.count if count is None else count
        if count < 2 or not tracked_norms(network):  # one example has no variance
            return
        if self._live_bytes * count > LAYERWISE_BYTES:
            self._batchwise(network, count)
            return
        run = Layerwise(network.eval())
        with torch.no_grad():
            names = digests(run, run.overwritten, statistics=False)
            again = self.cache.again(names.values())
            keys = {at: ("calibration", name, count) for at, name in names.items()}
            start = max((at for at, key in keys.items() if key in self.cache), default=0)
            keep = max((at for at, name in names.items() if name in again), default=0)
            if start:
                held, statistics = self.cache.get(keys[start])
                values = [list(batch) for batch in held]
                run.restore(statistics)
            else:
                values = [run.begin(inputs) for _, inputs in self._calibration.batches(count)]
            if keep > start:
                run.find(values, start, keep)
                kept = [list(batch) for batch in values]
                self.cache.put(keys[keep], (kept, run.statistics(keep)), sum(map(size_of, kept)))
                start = keep
            run.find(values, start)

    def _batchwise(self, network: fx.GraphModule, count: int) -> None:
        size = self._batch_size
        whole = count // size * size or count
        read = self._calibration.read
        recalibrate(network, (read(at, min(at + size, count)) for at in range(0, whole, size)))

    def outputs(self, network: fx.GraphModule) -> Callable[[int, int], Tensor]:
        """A function that gives the class scores `(n, classes)` of hold-out examples `[a, b)`.

        The examples are in the order of the inputs; both ends lie between batches.
        """
        run = Inference(network.eval(), self._dtype)
        names = digests(run, run.overwritten, statistics=True)
        again = self.cache.again(names.values())
        keep = max((at for at, name in names.items() if name in again), default=0)
        deepest = sorted(names, reverse=True)

        def batch(place: int, inputs: Tensor) -> Tensor:
            start = next((at for at in deepest if (names[at], place) in self.cache), 0)
            held = self.cache.get((names[start], place)) if start else None
            values = run.begin(inputs) if held is None else list(held)
            if keep > start:
                run.advance(values, start, keep)
                self.cache.put((names[keep], place), list(values), size_of(values))
                start = keep
            run.advance(values, start, len(run.program.steps))
            return run.result(values).float()

        def between(first: int, last: int) -> Tensor:
            with torch.inference_mode():
                found = [batch(at, inputs) for at, inputs in self._holdout.batches(last, first)]
                return torch.cat(found)

        return between

    @cached_property
    def _live_bytes(self) -> float:
        """The most that is live at a batch-norm, per example; infinite if they share one."""
        if not can_go_layerwise(self._original):
            return float("inf")
        run = Layerwise(self._original)
        graph = graph_of(self._original)
        types = infer(graph)
        elements = {name: kind.per_example() for name, kind in types.items()}
        return 4.0 * max(
            sum(elements.get(run.program.steps[at].name, 0) for at in run.program.live(norm))
            for norm in run.norms
        )
