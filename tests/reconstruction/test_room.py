"""Sequential reconstruction in bounded memory: the first layers see fewer examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx

from espalier.format.build import graph_of, tensors_of
from search.pruning import apply
from search.reconstruction import held_together, sequential
from search.reconstruction.layers import layers
from search.reconstruction.sequential import ordered
from search.reconstruction.walk import Walk, live_bytes
from tests.pruning.cases import case
from tests.reconstruction.test_reconstruction import Recorder, batches, inputs, some

BATCH = 7


def needed(network: fx.GraphModule) -> list[int]:
    return live_bytes(network, ordered(network))


def solved(
    name: str, held_bytes: int | None, examples: int = 16
) -> tuple[fx.GraphModule, list[str]]:
    """A cut network that was solved for, and the weights that were, in their order."""
    found = case(name)
    kept = some(found.space, 2)
    cut = apply(found.network, found.space, kept)
    given: Iterator[Tensor] = iter(batches(inputs(found.example)[:examples]))
    result = sequential(
        found.network, cut, found.space, kept, given, passes=1, held_bytes=held_bytes
    )
    before, after = tensors_of(cut), tensors_of(result)
    names = [layer.weight for layer in layers(graph_of(result))]
    return result, [name for name in names if not torch.equal(before[name], after[name])]


@pytest.mark.parametrize("name", ["resnet18", "densenet", "vit_fused"])
def test_with_room_for_all_it_is_as_without_a_limit(name: str) -> None:
    most = 2 * needed(case(name).network)[0] * 16
    free, bounded = tensors_of(solved(name, None)[0]), tensors_of(solved(name, most)[0])
    assert all(torch.equal(free[key], bounded[key]) for key in free)


def test_the_first_layers_see_the_first_examples_and_the_last_ones_all() -> None:
    network = case("resnet18").network
    changed = solved("resnet18", None)[1]
    at = {layer.weight: layer.node for layer in layers(graph_of(network))}
    place = ordered(network).index(at[changed[0]])
    limit = 2 * needed(network)[place] * BATCH  # room for one batch until the first of them
    assert held_together(network, limit)[-1] > 16
    mixed, few, every = (
        solved("resnet18", *given)[0] for given in ((limit,), (None, BATCH), (None,))
    )
    found, alone = tensors_of(mixed), tensors_of(few)
    assert torch.equal(found[changed[0]], alone[changed[0]])
    assert not torch.equal(found[changed[-1]], alone[changed[-1]])
    x = inputs(case("resnet18").example)
    last = graph_of(network).outputs[0]
    wanted = Recorder(network).values(x)[last]
    losses = [
        float((Recorder(each).values(x)[last] - wanted).square().mean())
        for each in (every, mixed, few)
    ]
    assert losses == sorted(losses)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2_bn"])
def test_no_more_is_held_than_there_is_room_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, largest = case(name), [0]
    step = Walk.step

    def measured(self: Walk, name: str) -> None:
        step(self, name)
        held = [
            v for batch in self._batches for v in batch if isinstance(v, Tensor) and v.dim() > 1
        ]
        largest[0] = max(largest[0], 4 * sum(value.numel() for value in held))

    monkeypatch.setattr(Walk, "step", measured)
    limit = 2 * needed(found.network)[0] * BATCH
    solved(name, limit)
    assert 0 < largest[0] <= limit / 2
    unlimited = largest[0]
    solved(name, None)
    assert largest[0] > unlimited
