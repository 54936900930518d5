"""What a group loses at each width, against the divergence of networks cut by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from search.evaluation.evaluator import Evaluator
from search.evaluation.leveling import EXAMPLES, level
from search.evaluation.seeds import derive
from search.levels import anchors
from search.pruning import apply, select
from search.pruning.positions import everything
from search.spec import Criterion, EvaluationSpec, Reconstruction
from tests.evaluation.digits import digits, evaluator, job, raw

WIDTHS = tuple(range(1, 21))


@functools.cache
def made(criterion: Criterion, reconstruction: Reconstruction) -> Evaluator:
    evaluation = EvaluationSpec(
        calibration=128,
        holdout=400,
        batch_size=64,
        reconstruction=reconstruction,
        recalibration="none",
    )
    return evaluator(job(criterion=criterion, evaluation=evaluation))


def examples(evaluator: Evaluator) -> torch.Tensor:
    """The first of the hold-out in the order in which trials see it, preprocessed by hand."""
    images, _ = raw()
    seed = derive(evaluator.spec.seed, 4)
    order = np.random.default_rng(seed).permutation(evaluator.splits.holdout)[:EXAMPLES]
    return (torch.from_numpy(images[order])[:, None].float() / 16 - 0.3) / 0.4


def divergence(network: torch.nn.Module, inputs: torch.Tensor) -> float:
    """Of its outputs from the original's, by the definition."""
    with torch.inference_mode():
        p = digits().network(inputs).double().softmax(1)
        q = network(inputs).double().softmax(1)
    return float((p * (p.log() - q.log())).sum(1).mean())


@pytest.mark.parametrize("group", range(len(digits().space.groups)))
@pytest.mark.parametrize(
    ("criterion", "reconstruction"), [("l1", "none"), ("l1", "parallel"), ("obs", "parallel")]
)
def test_the_losses_at_the_anchors_are_the_divergence_of_that_cut(
    group: int, criterion: Criterion, reconstruction: Reconstruction
) -> None:
    subject, full = made(criterion, reconstruction), digits().space.full
    options = WIDTHS[: full[group]]
    found, losses = level(subject, group, options, torch.Generator())
    assert losses is not None
    assert len(losses) == full[group]
    assert losses[-1] == 0
    inputs, most = examples(subject), 0.0
    for width in anchors(options):
        kept = list(everything(subject.space))
        plan = (*full[:group], width, *full[group + 1 :])
        if criterion == "obs":
            removal = subject.removal(group)
            assert removal is not None
            kept[group] = tuple(sorted(removal.order[-width:]))
        else:
            kept = list(select(digits().network, subject.space, plan, "l1", torch.Generator()))
        if reconstruction == "none":
            network = apply(digits().network, subject.space, tuple(kept)).eval()
        else:
            network = subject.network(tuple(kept))
        measured = divergence(network, inputs)
        most = max(most, measured)  # a loss never rises with the width
        assert losses[width - 1] == pytest.approx(most, rel=1e-3, abs=2e-6)
    assert tuple(map(len, found.kept)) == (*full[:group], anchors(options)[-1], *full[group + 1 :])
    assert found.metrics["kl"] == pytest.approx(measured, rel=1e-3, abs=2e-6)
    assert found.metrics["examples"] == EXAMPLES
    assert found.score == found.metrics["top1"]
    assert not found.state


def test_only_allowed_widths_are_measured() -> None:
    subject, full = made("l1", "none"), digits().space.full
    found, losses = level(subject, 0, (4, full[0]), torch.Generator())
    assert losses is not None
    assert len(found.kept[0]) == 4
    assert losses[3] == pytest.approx(found.metrics["kl"])


def test_a_group_of_one_width_loses_nothing() -> None:
    subject, full = made("l1", "none"), digits().space.full
    found, losses = level(subject, 0, (full[0],), torch.Generator())
    assert losses == (0.0,) * full[0]
    assert tuple(map(len, found.kept)) == full
    assert found.score == subject.score(subject.baseline())


def test_outputs_that_are_no_numbers_have_no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = made("l1", "none")
    monkeypatch.setattr(Evaluator, "glance", lambda *_: {"top1": 0.1, "examples": 256.0})
    found, losses = level(subject, 0, WIDTHS[:12], torch.Generator())
    assert losses is None
    assert found.score is None
