"""What candidates that begin alike share: the values in front of the first layer that differs.

A prefix is named by a digest of all that its values follow from: the steps with their constants and
tensors, up to a position (`digests`). So whatever made two networks alike in front, be it the same
original, the same parent or the same training, they share; and nothing else does. Values are kept
for a position that was asked for before: random plans, which share nothing, keep nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from search.evaluation.program import Run, articulations

CACHE_BYTES = 512 * 2**20
_NAMES = 1 << 16  # of prefixes that were asked for: a few MiB
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Cache:
    """Values by key, within a number of bytes; the longest unused go first.

    Args:
        limit: bytes of tensors that are kept; 0 keeps nothing.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._asked: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable) -> Any:
        """The values of a key that is here."""
        self._held.move_to_end(key)
        self.hits += 1
        return self._held[key][0]

    def put(self, key: Hashable, values: Any, size: int) -> None:
        """Keep values of `size` bytes, unless that is too much."""
        if key in self._held or size > self.limit:
            return
        self._held[key] = values, size
        self.bytes += size
        while self.bytes > self.limit:
            _, (_, gone) = self._held.popitem(last=False)
            self.bytes -= gone

    def again(self, names: Iterable[bytes]) -> set[bytes]:
        """The names that were asked for before; all are remembered."""
        known = set()
        for name in names:
            if name in self._asked:
                known.add(name)
            self._asked[name] = None
            self._asked.move_to_end(name)
        while len(self._asked) > _NAMES:
            self._asked.popitem(last=False)
        return known


def digests(run: Run, overwritten: Iterable[int], *, statistics: bool) -> Mapping[int, bytes]:
    """Positions at which a network's values can be kept, ascending, with what they follow from.

    Args:
        overwritten: steps whose values a later step overwrites: they cannot be kept.
        statistics: whether the values depend on those of batch-norms.
    """
    lost = set(overwritten)
    positions = [
        at
        for at in articulations(run.program, run.modules)
        if not isinstance(run.modules[at], _BatchNorm) and lost.isdisjoint(run.program.live(at))
    ]
    state = hashlib.sha256()
    found: dict[int, bytes] = {}
    done = 0
    for position in sorted(positions):
        for at in range(done, position):
            step = run.program.steps[at]
            state.update(
                repr((step.kind, str(step.target), step.arguments, step.keywords)).encode()
            )
            for name, tensor in _tensors(run, at):
                if statistics or name not in _STATISTICS:
                    state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                    state.update(raw.numpy().data)
        found[position] = state.digest()
        done = position
    return found


def _tensors(run: Run, at: int) -> Iterable[tuple[str, Tensor]]:
    if at in run.modules:
        module = run.modules[at]
        yield module.extra_repr(), torch.empty(0)
        yield from module.named_parameters()
        yield from module.named_buffers()
    elif run.program.steps[at].kind == "get_attr":
        yield "tensor", run.calls[at]()


def size_of(values: Sequence[Any]) -> int:
    """Bytes of the tensors in a list of values."""
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
