"""Turns a plan into a score: cut, reconstruction, short tuning, recalibration, hold-out.

Deterministic in its arguments and its seed, whatever was evaluated before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from search.evaluation.measuring import Examiner
from search.evaluation.metrics import finite
from search.evaluation.racing import calibration
from search.evaluation.recalibrate import Statistics
from search.evaluation.shift import shift, statistics
from search.evaluation.tuning import Tuning
from search.pruning import apply, apply_further, clone, everything, select
from search.pruning.positions import alive
from search.reconstruction import PASSES, Parallel, Removal, Solved, sequential
from search.space import Kept, Plan
from search.strategies.base import Solve

Start = tuple[Kept, Mapping[str, Tensor]]
SEQUENTIAL_BYTES = 2**31
"""Live activations of both networks in sequential reconstruction."""

_CACHED = 4096
_DRAFT = 128  # calibration examples at least, a quarter of them otherwise


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a plan gave.

    Attributes:
        metrics: on the hold-out, those that are numbers.
        score: higher is better; `None` if the network's outputs are not numbers any more.
        kept: what was evaluated.
        state: the network's tensors on the CPU if its weights were tuned, here or in a
            parent; else empty, since `kept` and the original give it.
    """

    metrics: Mapping[str, float]
    score: float | None
    kept: Kept
    state: Mapping[str, Tensor] = field(default_factory=dict)


class Evaluator(Examiner):
    """Scores plans for one network, dataset and specification.

    Args and errors: as of `Examiner`.
    """

    @cached_property
    def _tuning(self) -> Tuning:
        return Tuning(
            self.teach,
            self.feed,
            self.splits.tuning,
            self.spec.evaluation,
            independent=self.scores.independent,
        )

    @cached_property
    def _cache(self) -> OrderedDict[tuple[Kept, float | None], Evaluated]:
        """Untuned trials by what they kept and had to beat."""
        return OrderedDict()

    def network(
        self, kept: Kept, start: Start | None = None, solve: Solve | None = None
    ) -> GraphModule:
        """A pruned network of its own tensors, in eval mode.

        Without a start, as an untuned trial of these channels is scored: reconstructed and
        recalibrated, or as `solve` says. A start at `kept` itself gives the network that was
        evaluated.
        """
        if start is None and solve is not None and self._solves:
            return self._solved(kept, solve).network
        network = clone(self._cut(kept, start))
        if start is None:
            self.recalibrate(network, kept)
        return network

    def choose(
        self,
        plan: Plan,
        random: torch.Generator,
        start: Start | None = None,
        within: Kept | None = None,
    ) -> Kept:
        """The channels that stay, by the specification's criterion.

        Args:
            random: for criteria that involve chance.
            start: a parent whose weights rank them; the original's by default.
            within: channels to choose from.
        """
        criterion = self.spec.ranking
        return select(
            self.original if start is None else self.network(start[0], start),
            self.space,
            plan,
            "l1" if criterion == "obs" else criterion,
            random,
            within,
            self._order if criterion == "obs" else None,
        )

    def _order(self, group: int) -> Sequence[int] | None:
        found = self.removal(group)
        return None if found is None else found.order

    def removal(self, group: int) -> Removal | None:
        """The order in which a group's channels go by the criterion `obs`, if it can rank them."""
        return self._parallel.removal(group)

    def glance(self, kept: Kept, count: int) -> dict[str, float]:
        """Metrics on the first of the hold-out, reconstructed, not recalibrated.

        Args:
            count: of examples, see `first`.
        """
        return self.first(self._cut(kept, None), count)

    @property
    def _solves(self) -> bool:
        """Whether weights are solved for at all."""
        return self._calibration.count > 0 and self.spec.evaluation.reconstruction != "none"

    def _solved(self, kept: Kept, solve: Solve) -> Solved:
        """Solved layer after layer, and recalibrated if that is asked for."""
        count, passes = self._calibration.count, PASSES
        if solve == "draft":
            count, passes = max(_DRAFT, count // 4), 0
        cut = apply(self.original, self.space, kept).eval()
        solved = self.in_sequence(cut, kept, count, passes)
        if self.spec.evaluation.recalibration not in ("auto", "none"):
            self.recalibrate(solved.network, kept)
        return solved

    def _cut(self, kept: Kept, start: Start | None) -> GraphModule:
        """Cut and reconstructed, in eval mode; without a start it shares the original's tensors."""
        if start is None:
            before, parent = self.original, everything(self.space)
        else:
            parent, state = start
            before = clone(apply(self.original, self.space, parent))
            restore(before, state)
        if parent == kept:
            return before
        cut = apply_further(before, self.space, parent, kept).eval()
        if not self._solves:
            return cut
        if self.spec.evaluation.reconstruction == "sequential":
            return self.in_sequence(cut, kept).network
        return self._parallel.reconstruct(cut, kept, *(() if start is None else (before, parent)))

    @cached_property
    def _parallel(self) -> Parallel:
        batches = self._calibration.batches(self._calibration.count)
        return Parallel(self.original, self.space, (inputs for _, inputs in batches))

    def in_sequence(
        self, cut: GraphModule, kept: Kept, count: int | None = None, passes: int = PASSES
    ) -> Solved:
        """A cut network solved for layer after layer, see `sequential`.

        Args:
            count: of calibration examples, all by default.
        """
        count = self._calibration.count if count is None else count
        return sequential(
            self.original,
            cut,
            self.space,
            kept,
            (inputs for _, inputs in self._calibration.batches(count)),
            passes=passes,
            held_bytes=SEQUENTIAL_BYTES,
        )

    def recalibrate(self, network: GraphModule, kept: Kept) -> None:
        """Batch-norm statistics from the calibration examples, as the specification asks, in place.

        Nothing happens to a network that is not cut.

        Args:
            kept: the channels that the network has.
        """
        way = self.spec.evaluation.recalibration
        if way == "auto":  # what sequential reconstruction solved for fits the statistics there
            solved = self.spec.evaluation.reconstruction == "sequential"
            way = "none" if solved else "relative"
        if way == "none" or tuple(map(len, kept)) == self.space.full:
            return
        self._estimate_statistics(network)
        if way == "relative":
            shift(network, self.original, self._clean, alive(self.space, kept))

    @cached_property
    def _clean(self) -> Mapping[str, Statistics]:
        """What recalibration would make of the original."""
        network = clone(self.original)
        self._estimate_statistics(network)
        return statistics(network)

    def _estimate_statistics(self, network: GraphModule) -> None:
        count = self._calibration.count
        self._scorer.recalibrate(network, calibration(count) if self._races else count)

    def evaluate(
        self,
        kept: Kept,
        *,
        start: Start | None = None,
        tuning_steps: int = 0,
        seed: int = 0,
        floor: float | None = None,
        solve: Solve | None = None,
    ) -> Evaluated:
        """Score what is left of the original when only `kept` stays.

        Args:
            start: a parent's kept channels, of which `kept` is a subset, and its tuned weights.
            tuning_steps: gradient steps before the score, on examples drawn with `seed`.
            floor: the score to beat, see `search.evaluation.racing`; of no effect without racing.
            solve: see `Proposal.solve`; without a start and without tuning. Where the
                specification has no weights solved for, they are kept as the score found them.
        """
        if solve is not None and self._solves:
            network, solved_on = self._solved(kept, solve)
            measured = self.measure(network, "holdout")
            found = finite(measured) | {"solved_on": float(solved_on)}
            state = snapshot(network) if solve == "full" else {}
            return Evaluated(found, self.score(measured), kept, state)
        plain = start is None and tuning_steps == 0 and solve is None
        key = kept, floor if self._races else None
        if plain and key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        network = self._cut(kept, start)
        if tuning_steps:
            network = clone(network)
            self._tuning.tune(network, tuning_steps, seed)
        self.recalibrate(network, kept)
        metrics = self.raced(network, floor)
        state = {} if plain else snapshot(network)
        result = Evaluated(finite(metrics), self.score(metrics), kept, state)
        if plain:
            self._cache[key] = result
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return result


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all tensors on the CPU, also of those that are not in the `state_dict`."""
    held: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    held |= dict(network.named_buffers(remove_duplicate=False))
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in held.items()}


def restore(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `snapshot` took of a network like this one.

    Raises:
        RuntimeError: it was taken of another one.
    """
    saved = network.state_dict().keys()
    network.load_state_dict({name: value for name, value in state.items() if name in saved})
    for name, buffer in network.named_buffers():
        if name not in saved:
            buffer.copy_(state[name])
