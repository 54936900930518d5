"""Layer after layer, on the pruned network's own inputs.

Both networks run side by side, node by node, on all calibration examples that there is room for:
further on activations are smaller, and more examples join. Where a layer's input is no longer what
it was, its weights are solved for: its output, and what is added to that further on, should come as
near as possible to the original's (`search.reconstruction.solve`). So every layer also makes good,
as far as it can, what the layers before it have lost.

What is wanted of a layer is the original's output `y`, seen through the batch-norms behind both
(`A y + C` then, `a y + c` now, which differ after training), and in a residual sum also what the
other operand has lost, from `S` to `s`:

    t = (A y + C - c + S - s) / a

Where an activation alone reads that, what it cuts off does not matter: of a value that should be
below the least that a ReLU lets through, only what is above it counts. So the layer is solved for
again with targets that ask for nothing where both values are cut off, `PASSES` times. As Zhang et
al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection",
arXiv:1505.06798, section 3.2, whose auxiliary variables are solved for under a penalty; here each
pass minimises a bound on the error behind the activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx

from espalier.format.build import graph_of, tensors_of
from espalier.format.ir import Node
from search.evaluation.inference import affine
from search.pruning import clone
from search.pruning.positions import alive
from search.reconstruction.layers import Layer, Range, layers
from search.reconstruction.moments import Accumulator, Moments, aimed_at
from search.reconstruction.order import held_together, ordered
from search.reconstruction.solve import RIDGE, regress
from search.reconstruction.walk import Walk
from search.space import Kept, SearchSpace

PASSES = 3
_FAR = 1e30  # beyond every output, and finite
_SMALLEST_GAIN = 1e-3  # of a batch-norm: a channel with less says next to nothing


class Solved(NamedTuple):
    """A network, and how many examples the first of its layers that had to be was solved on.

    Later layers may have seen more. 0 if there was nothing to solve for.
    """

    network: fx.GraphModule
    examples: int


def sequential(
    original: fx.GraphModule,
    cut: fx.GraphModule,
    space: SearchSpace,
    kept: Kept,
    batches: Iterable[Tensor],
    ridge: float = RIDGE,
    passes: int = PASSES,
    held_bytes: int | None = None,
) -> Solved:
    """The cut network with weights solved for on its own inputs.

    Args:
        original: at full width, in eval mode.
        cut: the same at `kept`, in eval mode; its weights may have been trained since.
        batches: inputs `(n, ...)`, each taken once: as many at the start as `held_bytes` are enough
            for, one example at least, the others further on, where activations are smaller.
        ridge: see `solve.regress`.
        passes: over each layer in front of an activation, after the first.
        held_bytes: of what is live in both networks in float32; `None` for no limit.
    Returns:
        A network with tensors of its own.
    """
    result = clone(cut).eval()
    room = None if held_bytes is None else held_together(original, held_bytes)
    # A batch that joins later runs from the start beside the others: so it is half of what fits.
    most = None if room is None else max(1, room[0] // 2)
    parts = (part for batch in batches for part in torch.split(batch, most or len(batch)))
    return _Sequential(original, result, space, kept, parts, room, ridge, passes).run()


class _Sequential:
    def __init__(
        self,
        original: fx.GraphModule,
        result: fx.GraphModule,
        space: SearchSpace,
        kept: Kept,
        batches: Iterator[Tensor],
        room: Sequence[int] | None,
        ridge: float,
        passes: int,
    ) -> None:
        self._original, self._result = original, result
        self._ridge, self._passes = ridge, passes
        self._left = {key: torch.from_numpy(mask) for key, mask in alive(space, kept).items()}
        self._batches, self._room = batches, room
        self._waiting = next(batches, None)
        self._taken = 0  # examples
        self._solved_on = 0
        self._then, self._now = Walk(original), Walk(result)
        self._layers = {layer.node: layer for layer in layers(graph_of(result))}
        self._order = ordered(result)
        self._changed = _differing(original, result)

    def run(self) -> Solved:
        """The cut network, its layers solved for one after the other."""
        with torch.no_grad():
            for at, name in enumerate(self._order):
                self._take_more(at)
                moved = not self._changed.isdisjoint(self._then.reads[name])
                self._then.step(name)
                if moved and name in self._layers:
                    self._solved_on = self._solved_on or self._taken
                    self._solve(self._layers[name])
                if moved:
                    self._changed.add(name)
                self._follow(name, self._then, self._now)
        return Solved(self._result, self._solved_on)

    def _take_more(self, at: int) -> None:
        """Bring further batches as far as the others have come, as long as there is room."""
        while self._waiting is not None and self._fits(len(self._waiting), at):
            then = Walk(self._original, [self._waiting])
            now = Walk(self._result, [self._waiting])
            for name in self._order[:at]:
                then.step(name)
                self._follow(name, then, now)
            self._then.join(then)
            self._now.join(now)
            self._taken += len(self._waiting)
            self._waiting = next(self._batches, None)

    def _fits(self, more: int, at: int) -> bool:
        """Whether there is room for more examples, which come all the way from the first step."""
        if not self._taken or self._room is None:
            return True
        return self._taken / self._room[at] + more / self._room[0] <= 1

    def _follow(self, name: str, then: Walk, now: Walk) -> None:
        """Run a step of the cut network that the original has run."""
        if name in self._changed or name in now.stored:  # which may be solved for later
            now.step(name)
        else:
            now.borrow(name, then)

    def _solve(self, layer: Layer) -> None:
        """Give a layer the weights that fit the inputs that it gets now."""
        tensors = tensors_of(self._result)
        weight = tensors[layer.weight]
        inputs, targets = self._now.values(layer.source), self._targets(layer)
        found = Accumulator(layer)
        for x, target in zip(inputs, targets, strict=True):
            found.add(x, target)
        moments = found.moments()
        solution = self._fitted(layer, weight, moments)
        passed = [] if layer.range is None else self._passed(layer, layer.range, targets)
        for _ in range(self._passes if passed else 0):
            asked = (
                _asked(layer.apply(x, *solution), target, *ends)
                for x, target, ends in zip(inputs, targets, passed, strict=True)
            )
            solution = self._fitted(layer, weight, aimed_at(moments, layer, inputs, asked))
        new, constant = solution
        with torch.no_grad():
            weight.copy_(new)
            if layer.bias is not None:
                tensors[layer.bias].copy_(constant)
            elif layer.norm is not None:  # the norm subtracts its mean
                tensors[f"{layer.norm}.running_mean"].sub_(constant)

    def _fitted(self, layer: Layer, weight: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        """Weight and constant `(c_out,)` of least squares."""
        old = layer.matrix(weight).double()
        if layer.carries_constant:
            gram, cross = moments.covariance(), moments.cross_covariance()
        else:
            gram, cross = moments.square, moments.cross
        new = old + regress(gram, cross.mT - old @ gram, moments.rows, self._ridge)
        constant = moments.target_mean - (new @ moments.mean[..., None]).squeeze(-1)
        constant = constant.flatten() * layer.carries_constant
        return layer.weight_of(new, weight).to(weight.dtype), constant.to(weight.dtype)

    def _targets(self, layer: Layer) -> list[Tensor]:
        """What the layer should give, by batch: of the shape of its output in the cut network."""
        scale, offset, gain = self._norms(layer)
        targets = [self._rows(layer, y) * scale + offset for y in self._then.values(layer.node)]
        other = layer.residual.other if layer.residual else None
        if other is None or not (self._then.holds(other) and self._now.holds(other)):
            return targets
        result = []
        for target, then, now in zip(
            targets, self._then.values(other), self._now.values(other), strict=True
        ):
            sum_then = self._rows(layer, then) if then.dim() == target.dim() else then
            if sum_then.shape != now.shape or now.shape != target.shape:
                return targets  # spread over the output by broadcasting
            result.append(target + (sum_then - now) * gain)
        return result

    def _passed(
        self, layer: Layer, limits: Range, targets: Sequence[Tensor]
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """Which outputs the activation behind norm and sum lets through: from and up to where.

        Returns:
            The ends by batch, see `_ends`; none where the other operand of a sum is not there yet,
            or spreads itself.
        """
        if layer.norm is None:
            gain, constant = targets[0].new_ones(()), targets[0].new_zeros(())
        else:
            gain, constant = (
                part.view(-1, *(1,) * len(layer.kernel))
                for part in affine(self._result.get_submodule(layer.norm))
            )
        if layer.residual is None:
            return [_ends(gain, constant, limits)] * len(targets)
        if not self._now.holds(layer.residual.other):
            return []
        added = self._now.values(layer.residual.other)
        if added[0].shape != targets[0].shape:
            return []
        return [_ends(gain, constant + value, limits) for value in added]

    def _norms(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """How the norm behind a layer asks for an output: `scale * y + offset`, and `gain`.

        With the norm `A y + C` of the original and `a y + c` now, the output that gives the same is
        `(A y + C - c) / a`; a change of the residual sum asks for `1 / a` of itself. Nothing is
        asked where `a` is next to 0. `(channels, 1, ...)` each.
        """
        if layer.norm is None:
            one = tensors_of(self._result)[layer.weight].new_ones(())
            return one, one * 0, one
        a, c = affine(self._result.get_submodule(layer.norm))
        then_a, then_c = (
            self._rows(layer, value[None])[0] if layer.kernel else self._rows(layer, value)
            for value in affine(self._original.get_submodule(layer.norm))
        )
        small = a.abs() < _SMALLEST_GAIN
        gain = 1 / torch.where(small, 1.0, a)
        parts = (
            torch.where(small, 1.0, then_a * gain),
            torch.where(small, 0.0, (then_c - c) * gain),
            torch.where(small, 0.0, gain),
        )
        scale, offset, gain = (part.view(-1, *(1,) * len(layer.kernel)) for part in parts)
        return scale, offset, gain

    def _rows(self, layer: Layer, y: Tensor) -> Tensor:
        """The kept channels of the original's tensor."""
        mask = self._left.get((layer.weight, 0))
        if mask is None or y.shape[layer.channel_dim] != len(mask):
            return y
        return y.index_select(layer.channel_dim, mask.nonzero().flatten().to(y.device))


def _ends(gain: Tensor, offset: Tensor, limits: Range) -> tuple[Tensor | None, Tensor | None]:
    """The least and the greatest output that `gain * output + offset` is passed on for.

    Returns:
        Both spread over the output; `None` for one that no output reaches.
    """
    small = gain.abs() < _SMALLEST_GAIN
    gain = torch.where(small, 1.0, gain)
    one, other = ((limit - offset) / gain for limit in limits)
    low, high = torch.minimum(one, other).clamp(-_FAR), torch.maximum(one, other).clamp(max=_FAR)
    if small.any():
        low, high = low.masked_fill(small, -_FAR), high.masked_fill(small, _FAR)
    return None if (low == -_FAR).all() else low, None if (high == _FAR).all() else high


def _asked(output: Tensor, target: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """The target, but where it is cut off: the output's own value.

    As far as the output is cut off too; else the end. (`torch.where` takes ten times as long.)
    """
    result = target
    if low is not None:
        nearest = torch.minimum(output, low)
        result = torch.addcmul(result, (target <= low).to(target), nearest - target)
    if high is not None:
        nearest = torch.maximum(output, high)
        result = torch.addcmul(result, (target >= high).to(target), nearest - target)
    return result


def _differing(original: fx.GraphModule, result: fx.GraphModule) -> set[str]:
    """Nodes that are not what they were: other constants, or other tensors of their own."""
    before, after = tensors_of(original), tensors_of(result)
    touched = {
        name
        for name, tensor in after.items()
        if tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }
    touched |= {name.rpartition(".")[0] for name in touched}
    pairs = zip(graph_of(original).nodes, graph_of(result).nodes, strict=True)
    return {then.name for then, now in pairs if now.target in touched or _constants(then, now)}


def _constants(then: Node, now: Node) -> bool:
    return then.op == now.op and dict(then.attrs) != dict(now.attrs)
