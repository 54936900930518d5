"""Sequential reconstruction in bounded memory: the first layers see fewer examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from espalier.format.build import graph_of, tensors_of
from search.pruning import apply
from search.reconstruction import Solved, sequential
from search.reconstruction.order import held_together, live_bytes, ordered
from search.reconstruction.walk import Walk
from tests.pruning.cases import case
from tests.reconstruction.test_reconstruction import EXAMPLES, Recorder, batches, inputs, some

BATCH = 7


def needed(network: fx.GraphModule) -> list[int]:
    return live_bytes(network, ordered(network))


def solved(name: str, held_bytes: int | None, examples: int = EXAMPLES) -> Solved:
    """A cut network that was solved for."""
    found = case(name)
    kept = some(found.space, 2)
    cut = apply(found.network, found.space, kept)
    given = iter(batches(inputs(found.example)[:examples]))
    return sequential(found.network, cut, found.space, kept, given, passes=1, held_bytes=held_bytes)


@pytest.mark.parametrize("name", ["resnet18", "densenet", "vit_fused"])
def test_with_room_for_all_it_is_as_without_a_limit(name: str) -> None:
    most = 2 * needed(case(name).network)[0] * EXAMPLES
    free, bounded = solved(name, None), solved(name, most)
    assert free.examples == bounded.examples == EXAMPLES
    before, after = tensors_of(free.network), tensors_of(bounded.network)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_later_layers_see_more_examples_where_the_first_see_few() -> None:
    network = case("resnet18").network
    limit = 2 * needed(network)[0] * BATCH  # room for one batch at the start
    assert held_together(network, limit)[0] == BATCH
    assert held_together(network, limit)[-1] > EXAMPLES
    x = inputs(case("resnet18").example)
    last = graph_of(network).outputs[0]
    wanted = Recorder(network).values(x)[last]
    found = [solved("resnet18", *given) for given in ((None,), (limit,), (None, BATCH))]
    assert found[0].examples == EXAMPLES
    assert found[2].examples == BATCH <= found[1].examples < EXAMPLES, "of the first layer"
    losses = [
        float((Recorder(each.network).values(x)[last] - wanted).square().mean()) for each in found
    ]
    every, mixed, few = losses
    assert every != mixed < few / 2, "they are not the same, and mixed is near to every"


def test_a_batch_that_is_too_large_is_divided() -> None:
    network = case("resnet18").network
    limit = 2 * needed(network)[0] * 2  # two examples
    assert held_together(network, limit)[0] == 2
    assert held_together(network, 1)[0] == 1
    for held_bytes, first in ((limit, 2), (1, 1)):
        found = solved("resnet18", held_bytes)
        assert first <= found.examples < EXAMPLES
        assert all(tensor.isfinite().all() for tensor in tensors_of(found.network).values())


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
    for examples in (BATCH, 3):  # a whole batch, and less
        largest[0] = 0
        limit = 2 * needed(found.network)[0] * examples
        solved(name, limit)
        assert 0 < largest[0] <= limit / 2
    bounded = largest[0]
    solved(name, None)
    assert largest[0] > bounded
