from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from search.evaluation.data import Dataset, Examples, load_dataset
from search.evaluation.errors import DatasetMismatch, DatasetTooSmall, LabelsNeeded
from search.evaluation.evaluator import Evaluator
from search.evaluation.fit import check_metric, order_of
from search.evaluation.measuring import OriginalUnusable
from search.evaluation.metrics import Tally, score_of
from search.evaluation.seeds import derive
from search.evaluation.shift import shift, statistics
from search.evaluation.splits import split
from search.pruning import apply
from search.pruning.positions import alive
from search.spec import EvaluationSpec, JobSpec, Reconstruction
from search.strategies.base import Solve
from tests.evaluation.digits import BARE, digits, evaluator, job, kept, raw, unlabelled

Array = np.ndarray[Any, Any]


def test_metrics_equal_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, original = torch.randn(2, 50, 8, generator=generator)
    labels = torch.randint(0, 8, (50,), generator=generator)
    tally = Tally()
    for part in torch.split(torch.arange(50), 16):
        tally.add(logits[part], original[part], labels[part])
    found = tally.metrics()
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    p, q = original.softmax(1), logits.softmax(1)
    expected = {
        "top1": float((rank == 0).float().mean()),
        "top5": float((rank < 5).float().mean()),
        "cross_entropy": float(functional.cross_entropy(logits, labels)),
        "agreement": float((p.argmax(1) == q.argmax(1)).float().mean()),
        "kl": float((p * (p / q).log()).sum(1).mean()),
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_no_top5_among_five_classes_and_no_score_for_nan() -> None:
    tally = Tally()
    tally.add(torch.full((4, 5), torch.nan), torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))
    assert "top5" not in tally.metrics()
    assert tally.metrics()["top1"] == 1.0  # argmax of NaN is the first class
    assert score_of("top1", tally.metrics()) is None
    with pytest.raises(DatasetMismatch, match="top5"):
        check_metric("top5", labelled=True, classes=5)


def test_a_job_has_the_splits_of_its_version() -> None:
    spec = job()
    values = spec.model_dump(mode="json")
    del values["version"]
    for made, stratifies in ((JobSpec.stored(values), False), (spec, True)):
        wanted = split(
            digits().dataset, spec.evaluation, derive(spec.seed, 0), stratifies=stratifies
        )
        for name in ("calibration", "tuning", "holdout", "test"):
            np.testing.assert_array_equal(
                getattr(evaluator(made).splits, name), getattr(wanted, name)
            )


def test_the_baseline_is_the_original_on_the_holdout() -> None:
    made = evaluator()
    images, labels = raw()
    holdout = made.splits.holdout
    inputs = (torch.from_numpy(images[holdout])[:, None].float() / 16 - 0.3) / 0.4
    with torch.no_grad():
        right = digits().network(inputs).argmax(1).numpy() == labels[holdout]
    found = made.baseline()
    assert found["top1"] == pytest.approx(right.mean())
    assert found["top1"] > 0.9
    assert found["agreement"] == 1.0
    assert found["kl"] == pytest.approx(0, abs=1e-9)


def test_a_hold_out_of_ones_own_scores_the_trials() -> None:
    images, labels = raw()
    data = digits().dataset
    # Labels that are all wrong show which examples were scored; the training ones are the same.
    wrong = Examples(images[:200], (labels[:200] + 1) % 10)
    made = evaluator(dataset=dataclasses.replace(data, holdout=wrong))
    assert len(made.splits.holdout) == 200
    assert made.baseline()["top1"] < 0.1
    assert made.evaluate(kept(0.9)).metrics["top1"] < 0.3
    assert made.evaluate(kept(0.9)).metrics["agreement"] > 0.5


def test_keeping_everything_without_recalibration_is_the_original() -> None:
    made = evaluator(job(evaluation=EvaluationSpec(calibration=0, holdout=300)))
    result = made.evaluate(kept(1.0))
    assert result.metrics == pytest.approx(made.baseline())
    assert result.score == made.baseline()["top1"]


def test_a_score_does_not_depend_on_what_was_evaluated_before() -> None:
    tuned = {"tuning_steps": 4, "seed": 3}
    first = evaluator()
    alone = first.evaluate(kept(0.5), **tuned)  # type: ignore[arg-type]
    second = evaluator()
    second.baseline()
    second.evaluate(kept(0.7))
    second.evaluate(kept(0.5), tuning_steps=7, seed=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    after = second.evaluate(kept(0.5), **tuned)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert after.metrics == alone.metrics
    assert all(torch.equal(value, alone.state[name]) for name, value in after.state.items())
    other = second.evaluate(kept(0.5), tuning_steps=4, seed=4)
    assert other.metrics != alone.metrics


def test_the_original_is_never_changed() -> None:
    made = evaluator()
    before = copy.deepcopy(made.original.state_dict())
    made.evaluate(kept(1.0), tuning_steps=3, seed=0)
    made.evaluate(kept(0.5))
    made.evaluate(kept(0.5), tuning_steps=3, seed=0)
    after = made.original.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(module.training for module in made.original.modules())


def test_tuning_helps_and_recalibration_helps() -> None:
    cut = kept(0.5)
    loss = {
        calibration: evaluator(
            job(evaluation=EvaluationSpec(calibration=calibration, holdout=300, batch_size=64))
        )
        .evaluate(cut)
        .metrics["kl"]
        for calibration in (0, 256)
    }
    assert loss[256] < loss[0]
    spec = EvaluationSpec(calibration=256, holdout=300, batch_size=64, tuning_rate=0.02)
    tuned = evaluator(job(evaluation=spec)).evaluate(cut, tuning_steps=30, seed=0)
    assert tuned.metrics["kl"] < loss[256]


def test_a_child_starts_from_its_parents_weights() -> None:
    made = evaluator(job(evaluation=BARE))
    parent = made.evaluate(kept(0.7), tuning_steps=20, seed=0)
    again = made.evaluate(kept(0.7), start=(kept(0.7), parent.state))
    assert again.metrics == parent.metrics
    child = made.evaluate(kept(0.5), start=(kept(0.7), parent.state))
    assert child.kept == kept(0.5)
    assert child.metrics != made.evaluate(kept(0.5)).metrics
    rebuilt = made.network(child.kept, (child.kept, child.state))
    assert made.measure(rebuilt, "holdout") == child.metrics
    # Cutting the tuned parent by hand gives the same weights.
    narrowed = parent.state["linear.weight"][:, list(kept(0.5)[-1])]
    assert torch.equal(child.state["linear.weight"], narrowed)


def test_reconstruction_helps_and_more_so_on_the_networks_own_inputs() -> None:
    lost = {}
    for way in ("none", "parallel", "sequential"):
        spec = EvaluationSpec(calibration=256, holdout=300, reconstruction=way)
        lost[way] = evaluator(job(evaluation=spec)).evaluate(kept(0.5)).metrics["kl"]
    assert lost["sequential"] < lost["parallel"] < lost["none"]


@pytest.mark.parametrize("way", ["parallel", "sequential"])
def test_a_tuned_parent_is_reconstructed_too(way: Reconstruction) -> None:
    lost = {}
    for each in ("none", way):
        spec = EvaluationSpec(calibration=256, holdout=300, reconstruction=each)
        made = evaluator(job(evaluation=spec))
        parent = made.evaluate(kept(0.7), tuning_steps=20, seed=0)
        child = made.evaluate(kept(0.5), start=(kept(0.7), parent.state))
        lost[each] = child.metrics["kl"]
    assert lost[way] < lost["none"]


@pytest.mark.parametrize("solve", ["draft", "full"])
def test_a_solved_trial_is_made_again_as_it_was_scored(solve: Solve) -> None:
    """A draft wins when no finalist could be solved for, and its weights are not kept."""
    made = evaluator(job(criterion="obs"))
    channels = kept(0.4)
    scored = made.evaluate(channels, solve=solve)
    again = made.measure(made.network(channels, solve=solve), "holdout")
    assert again == {name: scored.metrics[name] for name in again}
    other = made.measure(made.network(channels), "holdout")
    assert other["cross_entropy"] != pytest.approx(again["cross_entropy"], rel=0.01)


def sorted_digits(names: tuple[str, ...] = ()) -> Dataset:
    """The digits, all of one class first, then all of the next."""
    images, labels = raw()
    order = np.argsort(labels, kind="stable")
    return named(images[order], labels[order], names)


def named(images: Array, labels: Array, names: tuple[str, ...]) -> Dataset:
    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    arrays: dict[str, Array] = {"images": images, "labels": labels}
    if names:
        arrays["classes"] = np.array(names)
    np.savez(folder / "named.npz", allow_pickle=False, **arrays)
    return load_dataset(folder / "named.npz")


def test_drafts_see_every_class_of_data_that_are_sorted_by_class() -> None:
    """As folders of images are. A draft takes the first quarter of the calibration examples."""
    spec = job(evaluation=EvaluationSpec(calibration=512, holdout=300, batch_size=64))
    mixed = evaluator(spec).evaluate(kept(0.5), solve="draft").metrics["top1"]
    found = evaluator(spec, sorted_digits()).evaluate(kept(0.5), solve="draft").metrics["top1"]
    assert found > mixed - 0.1


def test_classes_of_data_are_found_by_their_names() -> None:
    """Folders are sorted by name, whatever the order of the network's outputs."""
    network = digits().manifest.model_copy(update={"classes": tuple("zyxwvutsrq")})
    images, labels = raw()
    backwards = named(images, 9 - labels, tuple("qrstuvwxyz"))
    what = digits()
    made = Evaluator(what.network, what.space, backwards, network, job())
    assert made.baseline()["top1"] == pytest.approx(evaluator().baseline()["top1"], abs=0.02)
    some = named(images[labels > 6], labels[labels > 6] - 7, ("s", "r", "q"))
    made = Evaluator(what.network, what.space, some, network, job())
    assert made.baseline()["top1"] > 0.8, "a class that the data lack shifts no other"
    with pytest.raises(DatasetMismatch, match="'ten', which is none of the network's"):
        Evaluator(
            what.network, what.space, named(images, labels, (*"zyxwvutsr", "ten")), network, job()
        )


def test_a_name_that_two_classes_share_tells_none_apart() -> None:
    """ImageNet has two cranes: the same list in data and network is taken as it is, no other."""
    cranes = ("crane", "owl", "crane")
    assert order_of(cranes, cranes) == ()
    assert order_of(("owl",), cranes) == (1,)
    for data, network in ((("owl", "crane"), cranes), (cranes, ("crane", "owl", "heron"))):
        with pytest.raises(DatasetMismatch, match="two classes are named 'crane'"):
            order_of(data, network)


class Listed(tuple[str, ...]):
    """Names that are not searched one after the other: for 100,000 that would stop the API."""

    def searched(self, *_: object) -> Any:
        raise AssertionError("a name was searched for among all")

    index = count = __contains__ = searched


def test_names_of_classes_are_matched_in_one_pass() -> None:
    names = [f"class {number}" for number in range(1000)]
    assert order_of(Listed(reversed(names)), Listed(names)) == tuple(reversed(range(1000)))


def test_relative_recalibration_keeps_a_network_of_which_nothing_is_cut() -> None:
    made = evaluator(job(evaluation=BARE))
    network, left = made.network(kept(1.0)), alive(made.space, kept(1.0))
    before = statistics(network)
    made.recalibrate(network, kept(0.5))  # as if something were cut
    shift(network, made.original, statistics(network), left)
    for path, (mean, variance) in statistics(network).items():
        torch.testing.assert_close(mean, before[path][0])
        torch.testing.assert_close(variance, before[path][1])


def test_untuned_plans_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = evaluator()
    first = made.evaluate(kept(0.5))
    monkeypatch.setattr(Evaluator, "measure", None)
    assert made.evaluate(kept(0.5)) is first


def test_recalibration_by_hand_gives_the_same_score() -> None:
    made = evaluator(job(evaluation=BARE))
    network = copy.deepcopy(apply(made.original, made.space, kept(0.5)))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    inputs = made.feed.inputs(made.splits.calibration)
    for norm in norms:  # each sees what the ones before it yield in inference
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
        with torch.no_grad():
            network(inputs)
        norm.eval()
    found = made.evaluate(kept(0.5)).metrics
    assert made.measure(network, "holdout") == pytest.approx(found, rel=1e-5)


# --- data without labels, data that does not fit ------------------------------------------------


def test_unlabelled_data_is_scored_against_the_original() -> None:
    spec = EvaluationSpec(metric="cross_entropy", calibration=128, holdout=300, tuning_rate=0.02)
    made = evaluator(job(evaluation=spec), unlabelled())
    assert set(made.baseline()) == {"agreement", "kl"}
    plain = made.evaluate(kept(0.5))
    assert plain.score == -plain.metrics["kl"]
    tuned = made.evaluate(kept(0.5), tuning_steps=30, seed=0)
    assert tuned.score is not None
    assert tuned.score > plain.score
    by_choice = evaluator(
        job(evaluation=spec.model_copy(update={"metric": "agreement"})), unlabelled()
    )
    assert by_choice.evaluate(kept(0.5)).score == plain.metrics["agreement"]


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_accuracy_is_refused_without_labels(metric: str) -> None:
    spec = job(evaluation=EvaluationSpec.model_validate({"metric": metric, "holdout": 300}))
    with pytest.raises(LabelsNeeded, match="use agreement or cross_entropy"):
        evaluator(spec, unlabelled())


def changed(**facts: object) -> Dataset:
    made = digits().dataset
    return Dataset(made.train, None, made.description.model_copy(update=facts))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"example_shape": (9, 9)}, r"\(9, 9\), but the network takes \(1, 8, 8\)"),
        ({"example_shape": (8, 8, 3)}, "resize or rearrange"),
        ({"largest_label": 10}, "labels reach 10, but the network tells 10"),
        ({"classes": tuple("abcdefghijk")}, "11 classes, the network has 10"),
    ],
)
def test_data_that_does_not_fit_is_refused(facts: dict[str, object], words: str) -> None:
    with pytest.raises(DatasetMismatch, match=words):
        evaluator(dataset=changed(**facts))


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(DatasetTooSmall, match=r"evaluation\.test_fraction"):
        evaluator(job(evaluation=EvaluationSpec(test_fraction=0.9999)))


@pytest.mark.parametrize("layout", ["channels_last", "channels_first", "no_channel"])
def test_layouts_give_the_same_inputs(layout: str) -> None:
    images, labels = raw()
    shaped = {"channels_last": images[..., None], "channels_first": images[:, None]}
    stored = shaped.get(layout, images).astype(np.float64)
    description = digits().dataset.description.model_copy(
        update={"example_shape": stored.shape[1:], "dtype": "float64"}
    )
    made = evaluator(dataset=Dataset(Examples(stored, labels), None, description))
    expected = (images[:4].astype(np.float32)[:, None] / 16 - 0.3) / 0.4
    found = made.feed.inputs(np.arange(4)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_original_that_yields_nan_is_refused() -> None:
    network = copy.deepcopy(digits().network)
    with torch.no_grad():
        network.get_parameter("linear.bias")[0] = torch.nan
    made = Evaluator(network, digits().space, digits().dataset, digits().manifest, job())
    with pytest.raises(OriginalUnusable, match="preprocessing"):
        made.baseline()
