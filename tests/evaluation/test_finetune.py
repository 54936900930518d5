from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from search.evaluation.checkpoint import CheckpointInvalid
from search.evaluation.evaluator import Evaluator
from search.evaluation.finetune import FineTuner, rate
from search.evaluation.metrics import distance
from search.spec import EvaluationSpec, FineTuneSpec
from tests.evaluation.digits import BARE, evaluator, job, kept, unlabelled

SPEC = FineTuneSpec(epochs=2, batch_size=200, learning_rate=0.05, augment="crop")


def tuner(made: Evaluator, seed: int = 5, share: float = 0.5) -> FineTuner:
    return FineTuner(made.network(kept(share)), made, seed=seed)


def weights(done: FineTuner) -> dict[str, torch.Tensor]:
    return dict(done.network().state_dict())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_rate_warms_up_and_follows_half_a_cosine() -> None:
    spec = FineTuneSpec(learning_rate=0.4, warmup=0.2)
    rates = [rate(step, 100, spec) for step in range(100)]
    assert rates[:20] == pytest.approx([0.02 * (i + 1) for i in range(20)])
    assert max(rates) == rates[20] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    assert 0 < rates[99] < 0.001


def test_distance_at_a_temperature_is_hintons() -> None:
    student, teacher = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distance(student, teacher, 3.0), expected)
    soft = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distance(student, teacher), soft - entropy)
    assert float(distance(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert functional.softmax(student, 1).shape == (6, 9)


def test_fine_tuning_recovers_accuracy() -> None:
    made = evaluator(job(finetune=FineTuneSpec(epochs=4, batch_size=64, learning_rate=0.05)))
    done = tuner(made)
    before = made.measure(made.network(kept(0.5)), "holdout")["top1"]
    assert done.run()
    after = made.measure(done.network(), "holdout")
    assert after["top1"] > before + 0.2
    assert after["top1"] == max(entry["top1"] for entry in done.history)
    assert done.fraction == 1.0


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_interrupted_after_every_step_equals_uninterrupted(tmp_path: Path, augment: str) -> None:
    spec = job(finetune=SPEC.model_copy(update={"augment": augment}))
    whole = tuner(evaluator(spec))
    assert whole.run()
    path, steps = tmp_path / "checkpoint", 0
    made = evaluator(spec)
    while True:
        part = tuner(made)
        if path.exists():
            part.restore(path)
        torch.manual_seed(steps)  # another process has other global streams
        finished = part.run(max_seconds=0)
        part.save(path)
        steps += 1
        if finished:
            break
    assert steps == whole.total > 2 * 3
    final = tuner(made)
    final.restore(path)
    assert final.done
    assert final.history == whole.history
    assert same(weights(final), weights(whole))
    left, right = final.state_dict(), whole.state_dict()
    assert same(left[0], right[0])
    assert left[1] == right[1]


def test_should_stop_is_asked_after_each_step() -> None:
    part = tuner(evaluator(job(finetune=SPEC)))
    answers = iter([False, False, True])
    assert not part.run(should_stop=lambda: next(answers))
    assert part.step == 3


def test_the_seed_matters() -> None:
    made = evaluator(job(finetune=SPEC, evaluation=BARE))
    first, second = tuner(made, 1), tuner(made, 2)
    first.run()
    second.run()
    assert not same(weights(first), weights(second))


def test_the_result_is_never_worse_than_the_start() -> None:
    made = evaluator(job(finetune=FineTuneSpec(epochs=2, learning_rate=1e3, clip_norm=None)))
    start = weights(tuner(made, share=1.0))
    done = tuner(made, share=1.0)
    assert done.run()
    assert same(weights(done), start)


def test_the_last_epoch_is_kept_if_asked_for_though_the_start_was_better() -> None:
    """As where the hold-out is among what the network was trained on."""
    spec = FineTuneSpec(epochs=2, learning_rate=2.0, keep="last")
    made = evaluator(job(finetune=spec))
    done = tuner(made, share=1.0)
    assert done.run()
    start, *_, last = done.history
    assert last["score"] < start["score"]
    found = made.measure(done.network(), "holdout")
    assert found["cross_entropy"] == pytest.approx(last["cross_entropy"], rel=1e-6)


def test_without_epochs_the_start_is_the_result() -> None:
    made = evaluator(job(finetune=FineTuneSpec(epochs=0)))
    done = tuner(made)
    assert done.run()
    assert same(weights(done), weights(tuner(made)))
    assert [entry["epoch"] for entry in done.history] == [0]


def test_unlabelled_data_is_fine_tuned_by_distillation() -> None:
    spec = EvaluationSpec(metric="agreement", calibration=128, holdout=300, batch_size=64)
    tuning = FineTuneSpec(epochs=3, batch_size=64, learning_rate=0.05, distillation=0.0)
    made = evaluator(job(evaluation=spec, finetune=tuning), unlabelled())
    done = tuner(made)
    done.run()
    first, last = done.history[0], done.history[-1]
    assert last["agreement"] > first["agreement"]
    assert last["kl"] < first["kl"]


def test_checkpoints_hold_no_pickles_and_fit_only_their_run(tmp_path: Path) -> None:
    made = evaluator(job(finetune=SPEC))
    part = tuner(made)
    part.run(max_seconds=0)
    path = part.save(tmp_path / "checkpoint")
    with safe_open(path, framework="pt") as file:
        assert any(name.startswith("momentum/") for name in file.keys())  # noqa: SIM118
    assert list(tmp_path.iterdir()) == [path]
    other = evaluator(job(finetune=SPEC.model_copy(update={"learning_rate": 0.01})))
    for stranger in (tuner(made, seed=6), tuner(made, share=0.7), tuner(other)):
        with pytest.raises(CheckpointInvalid, match="another job, network"):
            stranger.restore(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        tuner(made).restore(path)
