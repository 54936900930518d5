"""A network that ends in a softmax or sigmoid is measured and trained as the one without."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional

from espalier.format.build import graph_of, load
from espalier.format.lift import pack
from espalier.format.manifest import Preprocessing
from search import engine
from search.evaluation.checkpoint import restore
from search.evaluation.class_scores import ClassScores
from search.evaluation.evaluator import Evaluator
from search.evaluation.finetune import FineTuner
from search.evaluation.leveling import level
from search.evaluation.metrics import distance, each, label_loss
from search.files import FolderFiles
from search.graph import head_of, space_of
from search.pruning import everything
from search.records import Inputs
from search.spec import EvaluationSpec, FineTuneSpec, JobSpec
from search.strategy_specs import UniformSpec
from tests.evaluation.digits import DigitsNet, digits, job, kept, unlabelled

End = Callable[[Tensor], Tensor]
ENDS: dict[str, End] = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "logsigmoid": functional.logsigmoid,
    "twice": lambda x: x.softmax(1).softmax(1),
    "clamped": lambda x: x.softmax(1).clamp(1e-7, 1.0),
    "half": lambda x: x.view(-1, 5, 2).softmax(2).flatten(1),  # not over the classes
}


class Ended(DigitsNet):
    """The digits' network with an end."""

    def __init__(self, end: End) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(super().forward(x))


@dataclass(frozen=True)
class Packed:
    package: Path
    network: GraphModule

    def evaluator(self, spec: JobSpec, *, labelled: bool = True) -> Evaluator:
        manifest: Any = self.network.meta["manifest"]
        data = digits().dataset if labelled else unlabelled()
        return Evaluator(load(self.package), space_of(graph_of(self.network)), data, manifest, spec)


@functools.cache
def packed(end: str | None) -> Packed:
    """With the weights of `digits()`."""
    network = DigitsNet() if end is None else Ended(ENDS[end])
    network.load_state_dict(digits().network.state_dict())
    path = Path(tempfile.mkdtemp(prefix="heads-")) / "network.espalier"
    pack(
        network.eval(),
        torch.zeros(2, 1, 8, 8),
        path,
        preprocessing=Preprocessing(scale=1 / 16, mean=(0.3,), std=(0.4,)),
    )
    return Packed(path, load(path))


def measured(made: Evaluator) -> list[Any]:
    """All that is computed from class scores, one after the other."""
    found: list[Any] = [made.baseline(), made.measure(packed(None).network, "test")]
    for plain in (made.evaluate(kept(0.6)), made.evaluate(kept(0.6), tuning_steps=3, seed=1)):
        found += [dict(plain.metrics), plain.score, plain.state]
    found += [made.glance(kept(0.5), 64), made.raced(made.network(kept(0.3)), 0.99)]
    solved = made.evaluate(kept(0.5), solve="draft")
    found += [dict(solved.metrics), solved.score]
    options = tuple(range(1, made.space.groups[0].channels + 1))
    found.append(level(made, 0, options, torch.Generator())[1])
    return found


def tuned(made: Evaluator) -> list[Any]:
    """Fine-tuning, by its history and its weights."""
    tuner = FineTuner(made.network(kept(0.6)), made, seed=3)
    tuner.run()
    return [tuner.history, tuner.network().state_dict()]


def same(left: Any, right: Any) -> None:
    """To the last bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            same(left[name], right[name])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, Tensor):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    else:
        assert left == right


SPEC = job(
    evaluation=EvaluationSpec(calibration=64, holdout=192, batch_size=64, racing=True),
    finetune=FineTuneSpec(epochs=1, batch_size=64, label_smoothing=0.1, temperature=3.0),
)


@functools.cache
def reference() -> list[Any]:
    return measured(packed(None).evaluator(SPEC))


def test_a_softmax_in_the_end_changes_nothing() -> None:
    same(measured(packed("softmax").evaluator(SPEC)), reference())


def test_a_log_softmax_in_the_end_changes_nothing_without_labels() -> None:
    evaluation = SPEC.evaluation.model_copy(update={"metric": "cross_entropy"})
    spec = SPEC.model_copy(update={"evaluation": evaluation})
    made, bare = (packed(end).evaluator(spec, labelled=False) for end in ("log_softmax", None))
    same([made.baseline(), *tuned(made)], [bare.baseline(), *tuned(bare)])


def test_a_softmax_that_is_not_over_the_classes_is_left_in() -> None:
    made = packed("half").evaluator(SPEC)
    assert made.scores.head is None
    baseline, reference_ = made.baseline(), reference()[0]
    assert baseline["cross_entropy"] > 1.5 > reference_["cross_entropy"]


def test_jobs_of_version_1_take_outputs_for_scores() -> None:
    """As they did: what they have found so far, and their checkpoints, go by that."""
    made = packed("softmax").evaluator(SPEC.model_copy(update={"version": 1}))
    assert made.scores.head is None
    assert made.baseline()["cross_entropy"] > 1.4


def test_only_the_last_of_two_softmaxes_is_a_head() -> None:
    """The other one belongs to the scores, as the network was trained: in all that reads them."""
    made = packed("twice").evaluator(SPEC)
    feed, indices = made.examples("test")
    inputs, labels = feed.inputs(indices), feed.labels(indices)
    with torch.no_grad():
        scores = packed("softmax").network(inputs)
    wanted = float(functional.cross_entropy(scores.double(), labels))
    for network in (
        made.original,
        load(packed("twice").package),
        made.network(everything(made.space)),
    ):
        found = made.measure(network, "test")
        assert found["cross_entropy"] == pytest.approx(wanted)
        assert found["kl"] == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(made.teach(inputs[:9]), scores[:9])


def test_divergence_is_that_of_the_class_scores() -> None:
    """Probabilities taken for scores gave nearly none, however far the networks were apart."""
    made = packed("softmax").evaluator(SPEC)
    other = packed("softmax").network
    cut = made.network(kept(0.4))
    feed, indices = made.examples("test")
    with torch.no_grad():
        p = other(feed.inputs(indices)).double()
        q = made.scores.whole(cut, kept(0.4))(feed.inputs(indices)).double()
    wanted = float((p * (p / q).log()).sum(1).mean())
    assert made.measure(cut, "test")["kl"] == pytest.approx(wanted, rel=1e-4)
    assert made.measure(made.scores.whole(cut, kept(0.4)), "test")["kl"] == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_log_softmax_is_as_good_as_scores(temperature: float) -> None:
    """It takes away what all scores have in common, at any temperature."""
    logits, original = torch.randn(2, 30, 7, dtype=torch.float64).mul(4)
    labels = torch.arange(30) % 7
    logs = logits.log_softmax(1), original.log_softmax(1)
    for left, right in (
        (distance(*logs, temperature), distance(logits, original, temperature)),
        (label_loss(logs[0], labels, 0.1), label_loss(logits, labels, 0.1)),
    ):
        torch.testing.assert_close(left, right)
    found, wanted = each(*logs, labels), each(logits, original, labels)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


# --- a yes or no for each class -------------------------------------------------------------------


def test_independent_classes_by_their_definitions() -> None:
    logits, original = torch.randn(2, 30, 7, dtype=torch.float64).mul(3)
    labels = torch.arange(30) % 7
    p, q = original.sigmoid(), logits.sigmoid()
    apart = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    target = functional.one_hot(labels, 7).double()
    found = each(logits, original, labels, independent=True)
    torch.testing.assert_close(found["kl"], apart.sum(1))
    entropy = -(target * q.log() + (1 - target) * (1 - q).log()).sum(1)
    torch.testing.assert_close(found["cross_entropy"], entropy)
    torch.testing.assert_close(label_loss(logits, labels, independent=True), entropy.mean())
    smooth = target * 0.8 + 0.1
    entropy = -(smooth * q.log() + (1 - smooth) * (1 - q).log()).sum(1)
    torch.testing.assert_close(label_loss(logits, labels, 0.2, independent=True), entropy.mean())
    warm, other = (original / 2).sigmoid(), (logits / 2).sigmoid()
    apart = warm * (warm / other).log() + (1 - warm) * ((1 - warm) / (1 - other)).log()
    torch.testing.assert_close(
        distance(logits, original, 2.0, independent=True), 4 * apart.sum(1).mean()
    )
    far = torch.full((1, 3), 400.0, dtype=torch.float64)
    assert float(each(far, -far, None, independent=True)["kl"]) == pytest.approx(1200)


def test_a_sigmoid_keeps_the_meaning_of_each_class() -> None:
    """Divergence sees all scores move together, as a softmax does not; top1 is the same."""
    made = packed("sigmoid").evaluator(SPEC)
    assert made.scores.independent
    baseline, plain = made.baseline(), reference()[0]
    assert (baseline["top1"], baseline["kl"]) == (plain["top1"], 0)
    assert baseline["cross_entropy"] != plain["cross_entropy"]
    shifted = load(packed("sigmoid").package)
    with torch.no_grad():
        shifted.get_parameter("linear.bias").add_(5.0)
    assert made.measure(shifted, "holdout")["kl"] > 1
    same(tuned(made), tuned(packed("logsigmoid").evaluator(SPEC)))


@pytest.mark.parametrize("end", ["softmax", "log_softmax", "sigmoid", "logsigmoid"])
def test_scores_are_inferred_from_what_onnx_yields(end: str) -> None:
    scores = ClassScores(space_of(graph_of(packed(end).network)), skips=True)
    logits = torch.randn(20, 10).mul(3)
    found = scores.of(torch.nn.Identity(), ENDS[end](logits))
    labels = torch.arange(20) % 10
    independent = scores.independent
    metrics = each(found, logits, labels, independent=independent)
    wanted = each(logits, logits, labels, independent=independent)
    for name in wanted:
        torch.testing.assert_close(metrics[name], wanted[name], rtol=1e-3, atol=1e-4)
    # Where a float holds no such small probability, the numbers stay numbers.
    steep = torch.tensor([[300.0, -300.0, 0.0]])
    assert scores.of(torch.nn.Identity(), ENDS[end](steep)).isfinite().all()


# --- whole jobs -----------------------------------------------------------------------------------


def test_what_is_handed_out_ends_as_the_original(tmp_path: Path) -> None:
    """Verified as it is handed out; the same plan and weights as without the softmax."""
    spec = SPEC.model_copy(update={"strategy": UniformSpec()})
    files = FolderFiles(tmp_path)
    plain = Inputs(spec, files.put(packed(None).package), files.put(digits().data))
    ended = Inputs(spec, files.put(packed("softmax").package), plain.dataset)
    done = engine.run(ended, files)
    found = {item.name: files.path(item.digest) for item in done.artifacts}
    network = load(found["network.espalier"])
    assert head_of(graph_of(network)) is not None
    prepared = engine.prepare(plain, files)
    winner, _ = engine.find_winner(plain, prepared, files)
    tensors, facts = restore(
        files.path(engine.tune(plain, prepared, winner, None, files).checkpoint)
    )
    metrics = json.loads(found["metrics.json"].read_text())
    assert (metrics["head"], metrics["verified"]) == ("softmax", True)
    assert metrics["finetuning"] == facts["history"]
    assert metrics["holdout"]["original"] == prepared.baseline
    assert json.loads(found["plan.json"].read_text())["plan"] == list(winner.outcome.plan)
    weights = network.state_dict()
    same(weights, {name: tensors[f"best/{name}"] for name in weights})
    for name, value in metrics["test"]["onnx"].items():  # inferred from the probabilities
        assert value == pytest.approx(metrics["test"]["after"][name], rel=1e-3)
    assert "end in a softmax" in found["report.html"].read_text()
    with torch.no_grad():
        outputs = network(torch.randn(4, 1, 8, 8))
    torch.testing.assert_close(outputs.sum(1), torch.ones(4))


def test_a_job_warns_of_probabilities_that_no_head_explains(tmp_path: Path) -> None:
    files = FolderFiles(tmp_path)
    dataset = files.put(digits().data)

    def told(end: str | None, **changes: Any) -> list[str]:
        spec = SPEC.model_copy(update={"strategy": UniformSpec(), **changes})
        job = Inputs(spec, files.put(packed(end).package), dataset)
        return [warning.code for warning in engine.prepare(job, files).warnings]

    assert told("clamped") == ["evaluation.probabilities"]
    assert told("clamped", version=1) == []
    assert told("softmax") == told("sigmoid") == told(None) == []
