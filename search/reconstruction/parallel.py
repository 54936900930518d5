"""All layers at once, from the original network's second moments alone.

One pass over the calibration examples at full width gives the covariance of every layer's inputs.
Then any cut is a matter of small solves: for a layer whose inputs `F` stay and `R` go,

    W' = W_F + W_R C_RF (C_FF + ridge)^-1,    b' = b + W_R m_R - (W' - W_F) m_F,

the least squares of `search.reconstruction.solve` with the original's output as target. It depends
on `F` alone, so plans that keep the same channels in front of a layer share its solution.

What the cut of one layer changes in the inputs of the next is not seen: `sequential` sees it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from espalier.format.build import graph_of, tensors_of
from search.pruning import with_tensors
from search.pruning.positions import alive, everything
from search.reconstruction.layers import Layer, layers
from search.reconstruction.moments import Accumulator, Moments
from search.reconstruction.removal import Reader, Removal, removal
from search.reconstruction.solve import RIDGE, regress
from search.reconstruction.walk import Walk
from search.space import Kept, SearchSpace

_CACHED_BYTES = 1 << 29

Solution = tuple[Tensor, Tensor]
"""A weight for all outputs, and the constant `(c_out,)` that goes with it."""


class Parallel:
    """Solves cuts of one network.

    Args:
        original: at full width, in eval mode.
        batches: inputs `(n, ...)`, one pass over them.
        ridge: see `solve.regress`.

    Memory: for each layer with `d` features 8 * d^2 bytes (a 3x3 convolution of 512 channels has
    4,608 features: 170 MB), and up to 512 MiB of solutions.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        space: SearchSpace,
        batches: Iterable[Tensor],
        ridge: float = RIDGE,
    ) -> None:
        self._space = space
        self._original = original
        self._ridge = ridge
        consumed = {
            member.tensor
            for group in space.groups
            for member in group.members
            if member.role == "consumes" and member.dim == 1
        }
        self._layers = {
            layer.node: layer for layer in layers(space.graph) if layer.weight in consumed
        }
        self._moments = self._measure(batches)
        self._solved: OrderedDict[tuple[str, bytes], Solution] = OrderedDict()
        self._bytes = 0
        self._removals: dict[int, Removal | None] = {}

    def _measure(self, batches: Iterable[Tensor]) -> dict[str, Moments]:
        sums = {name: Accumulator(layer) for name, layer in self._layers.items()}
        with torch.no_grad():
            for batch in batches:
                walk = Walk(self._original, [batch])
                for name in walk.reads:
                    if name in sums:
                        sums[name].add(*walk.values(self._layers[name].source))
                    walk.step(name)
        return {name: found.moments() for name, found in sums.items()}

    def reconstruct(
        self,
        cut: fx.GraphModule,
        kept: Kept,
        before: fx.GraphModule | None = None,
        parent: Kept | None = None,
    ) -> fx.GraphModule:
        """The cut network with the weights that make good what it lost.

        Args:
            cut: at `kept`, with the tensors of `before` but for the cut.
            before: the network it was cut from, at `parent`; the original by default.
        Returns:
            A network that shares with `cut` what was not solved for.
        """
        source = self._original if before is None else before
        left_then = alive(self._space, everything(self._space) if parent is None else parent)
        left_now = alive(self._space, kept)
        old, now = tensors_of(source), tensors_of(cut)
        there = {layer.node: layer for layer in layers(graph_of(source))}
        solved: dict[str, Tensor] = {}
        for name in self._layers:
            layer = there[name]
            inputs = (layer.weight, 1)
            if inputs not in left_now:
                continue
            before_mask, mask = left_then.get(inputs), left_now[inputs]
            keep = torch.from_numpy(mask if before_mask is None else mask[before_mask])
            if keep.all():
                continue
            weight, constant = self._solution(
                layer,
                old[layer.weight],
                keep,
                None if before_mask is None else torch.from_numpy(before_mask),
                cached=before is None,
            )
            rows_then, rows = left_then.get((layer.weight, 0)), left_now.get((layer.weight, 0))
            if rows is not None:
                stay = rows if rows_then is None else rows[rows_then]
                index = torch.from_numpy(stay.nonzero()[0]).to(weight.device)
                weight, constant = weight.index_select(0, index), constant.index_select(0, index)
            solved[layer.weight] = weight
            if layer.bias is not None:
                solved[layer.bias] = now[layer.bias] + constant
            elif layer.norm is not None:  # which subtracts its mean
                mean = f"{layer.norm}.running_mean"
                solved[mean] = now[mean] - constant
        return with_tensors(cut, solved)

    def removal(self, group: int) -> Removal | None:
        """In which order a group's channels go, and what that costs; found once.

        `None` if no layer that reads the group can be solved for, or its inputs are not finite.
        """
        if group not in self._removals:
            by_weight = {layer.weight: layer for layer in self._layers.values()}
            tensors = tensors_of(self._original)
            readers = [
                Reader(layer, self._moments[layer.node], tensors[layer.weight], member.positions)
                for member in self._space.groups[group].members
                if member.role == "consumes" and member.dim == 1
                if (layer := by_weight.get(member.tensor)) is not None
            ]
            self._removals[group] = removal(readers, self._ridge) if readers else None
        return self._removals[group]

    def _solution(
        self, layer: Layer, weight: Tensor, keep: Tensor, within: Tensor | None, *, cached: bool
    ) -> Solution:
        key = (layer.node, keep.numpy().tobytes())
        if cached and key in self._solved:
            self._solved.move_to_end(key)
            return self._solved[key]
        solution = _solve(layer, self._moments[layer.node], weight, keep, within, self._ridge)
        if cached:
            self._solved[key] = solution
            self._bytes += _size(solution)
            while self._bytes > _CACHED_BYTES:
                self._bytes -= _size(self._solved.popitem(last=False)[1])
        return solution


def _size(solution: Solution) -> int:
    return sum(tensor.nbytes for tensor in solution)


def _solve(
    layer: Layer,
    moments: Moments,
    weight: Tensor,
    keep: Tensor,
    within: Tensor | None,
    ridge: float,
) -> Solution:
    """The layer's weight on the inputs that stay.

    Args:
        weight: `(c_out, c_in / g, *kernel)` before the cut.
        keep: `(c_in / g,)` booleans: which of these inputs stay.
        within: `(full c_in / g,)` booleans: which of the original's inputs `weight` has.
    """
    carries = layer.carries_constant
    gram, mean = moments.covariance() if carries else moments.square, moments.mean
    positions = gram.shape[-1] // (len(keep) if within is None else len(within))
    if within is not None:
        index = within.repeat(positions).nonzero().flatten().to(gram.device)
        gram, mean = gram[:, index][:, :, index], mean[:, index]
    stays = keep.repeat(positions).to(gram.device)
    f, r = stays.nonzero().flatten(), (~stays).nonzero().flatten()
    matrix = layer.matrix(weight).double()
    correction = regress(
        gram[:, f][:, :, f], matrix[..., r] @ gram[:, r][:, :, f], moments.rows, ridge
    )
    new = matrix[..., f] + correction
    constant = matrix[..., r] @ mean[:, r, None] - correction @ mean[:, f, None]
    channels = keep.nonzero().flatten().to(weight.device)
    shape = weight.index_select(1, channels)
    return (
        layer.weight_of(new, shape).to(weight.dtype).contiguous(),
        constant.flatten().to(weight.dtype) * carries,
    )
