from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search.evaluation.metrics import each, score_of
from search.evaluation.racing import LEAST, Found, calibration, error, estimated, race, stops
from search.spec import EvaluationSpec, Metric
from tests.evaluation.digits import evaluator, job, kept, unlabelled


def results(count: int, skill: float, seed: int = 0) -> Found:
    """Of a network whose logits are the labels' by `skill`, else noise that all networks share."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 8, (count,), generator=generator)
    hard = torch.randn(count, 8, generator=generator)
    own = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    target = torch.nn.functional.one_hot(labels, 8) * skill
    original = hard + torch.nn.functional.one_hot(labels, 8) * 3
    return each(hard + 0.5 * own + target, original, labels)


def seeing(found: Found) -> tuple[list[int], object]:
    asked: list[int] = []

    def see(a: int, b: int) -> Found:
        asked.append(b)
        return {name: values[a:b] for name, values in found.items()}

    return asked, see


def test_judged_after_whole_batches_and_never_on_few() -> None:
    assert stops(1000, 32) == [224, 448, 672]
    assert stops(1000, 500) == [500]
    assert stops(300, 32) == [64, 128, 192]
    assert stops(200, 8) == [88, 136]
    assert stops(60, 32) == []
    assert all(LEAST <= stop < count for count in range(1, 400) for stop in stops(count, 7))
    assert [calibration(count) for count in (0, 100, 512, 4000)] == [0, 64, 64, 500]


def test_the_estimate_is_unbiased_and_its_error_is_what_it_says() -> None:
    """Over random orders of the examples: the mean, and the spread beside the standard error."""
    original, found = results(600, 3.0), results(600, 1.0, seed=1)
    truth = float(found["cross_entropy"].mean())
    generator = torch.Generator().manual_seed(0)
    estimates, errors = [], []
    for _ in range(400):
        order = torch.randperm(600, generator=generator)
        part = {name: values[order[:96]] for name, values in found.items()}
        whole = {name: values[order] for name, values in original.items()}
        estimates.append(estimated(part, whole)["cross_entropy"])
        errors.append(error(part, whole, "cross_entropy"))
    spread = torch.tensor(estimates).std()
    assert torch.tensor(estimates).mean() == pytest.approx(truth, abs=3 * float(spread) / 20)
    assert float(spread) == pytest.approx(sum(errors) / 400, rel=0.15)


def test_the_control_variate_helps_where_the_original_errs_alike() -> None:
    original, found = results(600, 2.0), results(600, 1.0, seed=1)
    nothing = {name: torch.zeros_like(values) for name, values in original.items()}
    part = {name: values[:96] for name, values in found.items()}
    assert error(part, original, "cross_entropy") < 0.8 * error(part, nothing, "cross_entropy")


@pytest.mark.parametrize("metric", ["cross_entropy", "top1", "agreement"])
def test_who_is_given_up_stays_below_the_floor(metric: Metric) -> None:
    original = results(1000, 3.0)
    for seed, skill in enumerate((0.2, 0.6, 1.0, 1.4, 1.8)):
        found = results(1000, skill, seed + 1)
        exact = {name: float(values.mean()) for name, values in found.items()}
        score = score_of(metric, exact)
        assert score is not None
        for gap in (-0.5, -0.05, 0.0, 0.01, 0.1, 1.0):
            asked, see = seeing(found)
            given = race(see, original, metric, score + gap, 32)  # type: ignore[arg-type]
            examples = given.pop("examples")
            assert examples == asked[-1]
            if examples == 1000:
                assert given == pytest.approx(exact)
            else:
                estimate = score_of(metric, given)
                assert estimate is not None
                assert estimate < score + gap
                part = {name: values[: asked[-1]] for name, values in found.items()}
                assert abs(estimate - score) < 5 * error(part, original, metric)
        asked, see = seeing(found)
        race(see, original, metric, score + 1.0, 32)  # type: ignore[arg-type]
        assert asked == [224]


def test_nan_is_not_given_up_as_if_it_were_a_score() -> None:
    original = results(300, 3.0)
    broken = {name: torch.full_like(values, torch.nan) for name, values in original.items()}
    _, see = seeing(broken)
    given = race(see, original, "cross_entropy", 0.0, 32)  # type: ignore[arg-type]
    assert given["examples"] == 300
    assert score_of("cross_entropy", given) is None


# --- in the evaluator ---------------------------------------------------------------------------


def racing(**changes: object) -> EvaluationSpec:
    fields = {"metric": "cross_entropy", "calibration": 128, "holdout": 300, "batch_size": 64}
    return EvaluationSpec.model_validate({**fields, "racing": True, **changes})


def test_a_race_is_lost_early_or_run_to_the_end() -> None:
    made = evaluator(job(evaluation=racing()))
    alone = made.evaluate(kept(0.5))
    assert "examples" not in alone.metrics
    assert alone.score is not None
    won = made.evaluate(kept(0.5), floor=alone.score - 0.01)
    assert won.metrics["examples"] == 300
    assert won.score == pytest.approx(alone.score)
    lost = made.evaluate(kept(0.5), floor=alone.score + 2)
    assert lost.score is not None
    assert lost.metrics["examples"] < 300
    assert lost.score < alone.score + 2
    assert set(lost.metrics) == {*alone.metrics, "examples"}
    fresh = evaluator(job(evaluation=racing()))
    assert fresh.evaluate(kept(0.5), floor=alone.score + 2).metrics == lost.metrics


def test_without_racing_a_floor_changes_nothing() -> None:
    spec = job(evaluation=racing(racing=False))
    whole = evaluator(spec).evaluate(kept(0.5))
    assert "examples" not in whole.metrics
    assert evaluator(spec).evaluate(kept(0.5), floor=9.0) == whole


def test_tiny_hold_outs_are_seen_whole() -> None:
    made = evaluator(job(evaluation=racing(holdout=40)))
    assert made.evaluate(kept(0.5), floor=9.0).metrics["examples"] == 40


def test_unlabelled_data_race_too() -> None:
    made = evaluator(job(evaluation=racing()), unlabelled())
    lost = made.evaluate(kept(0.3), floor=0.0)  # the original's own
    assert lost.metrics["examples"] < 300
    assert lost.score == -lost.metrics["kl"]


def test_tuned_trials_race_with_their_weights_kept() -> None:
    made = evaluator(job(evaluation=racing()))
    lost = made.evaluate(kept(0.5), tuning_steps=2, seed=1, floor=9.0)
    whole = made.evaluate(kept(0.5), tuning_steps=2, seed=1)
    assert lost.metrics["examples"] < 300
    assert all(torch.equal(value, whole.state[name]) for name, value in lost.state.items())


def test_scores_in_half_precision_are_near() -> None:
    exact = evaluator(job(evaluation=racing(racing=False)))
    half = evaluator(job(evaluation=racing(racing=False, precision="bfloat16")))
    for share in (0.5, 0.8, 1.0):
        found, expected = half.evaluate(kept(share)).metrics, exact.evaluate(kept(share)).metrics
        assert found["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=0.05)
        assert found != expected
    assert half.baseline()["agreement"] == 1.0
    weights: Tensor = half.original.get_parameter("conv1.weight")
    assert weights.dtype == torch.float32
