"""Parameters that need no gradient: carried through a cut, left alone by all training."""

from __future__ import annotations

import copy

import torch

from search.evaluation.evaluator import restore, snapshot
from search.evaluation.finetune import FineTuner
from search.evaluation.tuning import Tuning
from search.spec import FineTuneSpec
from tests.evaluation.digits import evaluator, job, kept

SPEC = FineTuneSpec(epochs=1, batch_size=200, learning_rate=0.05)


def _frozen(names: set[str] | None) -> tuple[FineTuner, dict[str, torch.Tensor]]:
    """A tuner whose network has some parameters frozen, or all; and its tensors."""
    made = evaluator(job(finetune=SPEC))
    network = copy.deepcopy(made.network(kept(0.5)))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(names is not None and name not in names)
    return FineTuner(network, made, seed=5), snapshot(network)


def _changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}


def test_fine_tuning_leaves_frozen_parameters_alone() -> None:
    made = evaluator(job(finetune=SPEC))
    names = [name for name, _ in made.network(kept(0.5)).named_parameters()]
    tuner, before = _frozen({names[0], names[-1]})
    tuner.run()
    changed = _changed(tuner._network, before)
    assert changed == set(names[1:-1])
    tensors, facts = tuner.state_dict()
    assert {n.removeprefix("momentum/") for n in tensors if n.startswith("momentum/")} == changed
    again, _ = _frozen({names[0], names[-1]})
    again.load_state_dict(tensors, facts)  # a checkpoint fits


def test_without_any_other_there_is_nothing_to_do() -> None:
    tuner, before = _frozen(None)
    assert tuner.total == 0
    assert tuner.run()
    assert not _changed(tuner.network(), before)


def test_short_tuning_leaves_them_alone() -> None:
    made = evaluator(job(finetune=SPEC))
    for keep in (0, 1):
        network = copy.deepcopy(made.network(kept(0.5)))
        before = snapshot(network)
        frozen = [name for name, _ in network.named_parameters()][keep:]
        for name in frozen:
            network.get_parameter(name).requires_grad_(False)
        tuning = Tuning(made.teach, made.feed, made.splits.tuning, made.spec.evaluation)
        tuning.tune(network, 2, seed=1)
        assert len(_changed(network, before)) == keep
        assert not network.training


def test_a_snapshot_has_every_tensor() -> None:
    """Also a buffer that the `state_dict` does not have."""

    class Passing(torch.nn.Module):
        table: torch.Tensor

        def __init__(self, value: float) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((2,), value))
            self.register_buffer("table", torch.full((2,), value), persistent=False)

    state = snapshot(Passing(1.0))
    other = Passing(2.0)
    restore(other, state)
    assert state.keys() == {"weight", "table"}
    assert other.table.tolist() == other.weight.tolist() == [1, 1]
