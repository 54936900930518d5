"""Whole jobs on networks and data that are no images, and on settings at their ends."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_iris, load_wine
from torch import Tensor, nn
from torch.nn import functional

from espalier.format.build import load
from espalier.format.lift import pack
from search import engine
from search.cost import UnreachableBudget
from search.evaluation.checkpoint import CheckpointInvalid
from search.evaluation.errors import DatasetMismatch
from search.evaluation.evaluator import Evaluator
from search.files import FolderFiles
from search.records import Finished, Inputs
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec, RoundingSpec
from search.strategy_specs import AllocateSpec, NetAdaptSpec, RandomSpec, StrategySpec, UniformSpec

Arrays = Mapping[str, np.ndarray[Any, Any]]


class TextNet(nn.Module):
    """Token embeddings averaged over the sentence, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.hidden = nn.Linear(12, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = functional.relu(self.hidden(self.embedding(tokens).mean(1)))
        result: Tensor = self.head(hidden)
        return result


def sentences() -> Arrays:
    """600 sentences of 9 tokens; each class has words of its own among common ones."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    own = random.integers(0, 10, (600, 9)) + 10 * labels[:, None]
    common = random.integers(30, 50, (600, 9))
    tokens = np.where(random.random((600, 9)) < 0.4, own, common)
    return {"inputs": tokens, "labels": labels}


def wine() -> Arrays:
    data = load_wine()
    inputs = (data.data - data.data.mean(0)) / data.data.std(0)
    return {"x": inputs.astype(np.float64), "y": data.target}


def iris() -> Arrays:
    data = load_iris()
    return {"x_train": data.data[::2], "y_train": data.target[::2],
            "x_test": data.data[1::2], "y_test": data.target[1::2]}  # fmt: skip


def waves() -> Arrays:
    """400 noisy signals `(2, 32)` of three frequencies."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 400)
    time = np.arange(32)[None, None] + random.uniform(0, 32, (400, 1, 1))
    signal = np.sin(2 * np.pi * time * (2 + 3 * labels[:, None, None]) / 32)
    noisy = signal + 0.5 * random.standard_normal((400, 2, 32))
    return {"inputs": noisy.astype(np.float32), "labels": labels}


def mlp(features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(),
        nn.Linear(12, 3),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 12, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(12, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


KINDS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Arrays]]] = {
    "text": (TextNet, sentences),
    "wine": (functools.partial(mlp, 13), wine),
    "iris": (functools.partial(mlp, 4), iris),
    "waves": (conv1d, waves),
}


def first(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """Training inputs and labels, as the network takes them."""
    inputs, labels, *_ = arrays.values()
    values = torch.from_numpy(inputs)
    return values if values.dtype == torch.int64 else values.float(), torch.from_numpy(labels)


def trained(network: nn.Module, inputs: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(inputs), labels.long()))
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FolderFiles:
    torch.set_num_threads(1)
    return FolderFiles(tmp_path_factory.mktemp("kinds"))


def pack_and_store(network: nn.Module, example: Tensor, files: FolderFiles) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return files.put(pack(network.eval(), example, Path(folder) / "network.espalier"))


def store(arrays: Arrays, files: FolderFiles) -> str:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub
        return files.put(Path(folder) / "data.npz")


@functools.cache
def materials(kind: str, files: FolderFiles) -> tuple[str, str]:
    """Digests of a trained network's package and its data."""
    make, data = KINDS[kind]
    arrays = data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(make(), *first(arrays))
    return pack_and_store(network, first(arrays)[0][:2], files), store(arrays, files)


def job(kind: str, files: FolderFiles, strategy: StrategySpec, **changes: Any) -> Inputs:
    spec = JobSpec(
        network=kind,
        dataset=kind,
        budget=BudgetSpec(macs="60%"),
        strategy=strategy,
        evaluation=EvaluationSpec(metric="cross_entropy", calibration=20, holdout=20),
        finetune=FineTuneSpec(epochs=2, batch_size=16),
        rounding=RoundingSpec(multiple=1),
        seed=3,
    )
    return Inputs(spec.model_copy(update=changes), *materials(kind, files))


def written(finished: Finished, name: str, files: FolderFiles) -> Path:
    (digest,) = (item.digest for item in finished.artifacts if item.name == name)
    return files.path(digest)


NETADAPT = NetAdaptSpec(first_step=0.2, decay=1.0, tuning_steps=2)


@pytest.fixture
def _verified_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are reloaded in this process: a fresh one takes seconds to start."""
    measure = importlib.import_module("search.export.verify").measure
    monkeypatch.setattr(importlib.import_module("search.export.write"), "verify", measure)


@pytest.mark.usefixtures("_verified_here")
@pytest.mark.parametrize("kind", ["text", "wine", "waves"])
def test_job_on_data_that_is_no_image(kind: str, files: FolderFiles) -> None:
    finished = engine.run(job(kind, files, NETADAPT), files)
    summary = finished.summary
    assert summary["verified"] is True
    assert summary["macs"]["after"] <= 0.6 * summary["macs"]["before"]
    assert summary["test_accuracy"]["before"] > 0.8
    assert summary["test_accuracy"]["after"] > 0.6
    pruned = load(written(finished, "network.espalier", files))
    inputs, labels = first(KINDS[kind][1]())
    right = pruned(inputs).argmax(1) == labels
    assert float(right.float().mean()) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_random_search_on_data_that_is_no_image(kind: str, files: FolderFiles) -> None:
    given = job(kind, files, RandomSpec(trials=3))
    prepared = engine.prepare(given, files)
    winner, trials = engine.find_winner(given, prepared, files, slots=2)
    assert winner.outcome.score == max(trial.outcome.score or -9.0 for trial in trials)
    assert winner.outcome.cost["macs"] <= prepared.limits["macs"]


@pytest.mark.parametrize("kind", KINDS)
def test_allocation_on_data_that_is_no_image(kind: str, files: FolderFiles) -> None:
    given = job(kind, files, AllocateSpec(trials=2, finalists=1, points=1))
    prepared = engine.prepare(given, files)
    winner, trials = engine.find_winner(given, prepared, files, slots=2)
    assert winner.outcome.cost["macs"] <= prepared.limits["macs"]
    for group, trial in enumerate(trials[: len(prepared.groups)]):
        assert trial.proposal.levels_of == group
        assert trial.outcome.losses is not None
        assert trial.outcome.losses[-1] == 0
    assert [trial.proposal.solve for trial in trials if trial.proposal.solve == "full"]


@pytest.mark.usefixtures("_verified_here")
def test_tokens_of_int32_stay_int32_in_the_result(files: FolderFiles) -> None:
    network = pack_and_store(TextNet(), torch.zeros(2, 9, dtype=torch.int32), files)
    given = replace(job("text", files, UniformSpec()), network=network)
    finished = engine.run(given, files)
    pruned = load(written(finished, "network.espalier", files))
    (declared,) = pruned.meta["manifest"].inputs
    assert declared.dtype == "int32"


# --- settings at their ends -----------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["accuracy", "ratio"])
@pytest.mark.parametrize("budget", ["100%", 10**15, 2**63 - 1])
def test_a_budget_that_holds_already_keeps_everything(
    files: FolderFiles, selection: Any, budget: Any
) -> None:
    for strategy in (NetAdaptSpec(selection=selection), UniformSpec(), RandomSpec(trials=1)):
        given = job("iris", files, strategy, budget=BudgetSpec(macs=budget))
        prepared = engine.prepare(given, files)
        winner, trials = engine.find_winner(given, prepared, files)
        assert winner.outcome.plan == tuple(group.channels for group in prepared.groups)
        assert len(trials) == 1


def test_a_network_without_prunable_channels_is_refused_in_words(files: FolderFiles) -> None:
    network = pack_and_store(nn.Linear(13, 3), torch.zeros(2, 13), files)
    given = replace(job("wine", files, UniformSpec()), network=network)
    with pytest.raises(UnreachableBudget, match="No channel of this network can be pruned"):
        engine.prepare(given, files)


@pytest.mark.parametrize("calibration", [0, 1, 7])
def test_little_calibration_is_enough_for_batch_norm(files: FolderFiles, calibration: int) -> None:
    """All of it in one batch, however large batches are."""
    evaluation = EvaluationSpec(calibration=calibration, holdout=20, batch_size=65_536)
    given = job("wine", files, NETADAPT, evaluation=evaluation)
    winner, _ = engine.find_winner(given, engine.prepare(given, files), files)
    assert winner.outcome.score is not None


@pytest.mark.parametrize("spec", [EvaluationSpec, FineTuneSpec])
def test_batches_of_one_are_refused_since_batch_norm_cannot_train_on_them(spec: Any) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        spec(batch_size=1)


def test_trials_that_diverge_end_the_search_in_words(files: FolderFiles) -> None:
    evaluation = EvaluationSpec(calibration=20, holdout=20, tuning_rate=1e6)
    given = job("wine", files, NETADAPT, evaluation=evaluation)
    with pytest.raises(engine.SearchFailed, match=r"evaluation\.tuning_rate"):
        engine.find_winner(given, engine.prepare(given, files), files)


@pytest.mark.usefixtures("_verified_here")
def test_without_labels_the_original_is_the_reference(files: FolderFiles) -> None:
    dataset = store({"x": wine()["x"]}, files)
    given = replace(job("wine", files, NETADAPT), dataset=dataset)
    assert set(engine.prepare(given, files).baseline) == {"agreement", "kl"}
    summary = engine.run(given, files).summary
    assert "test_accuracy" not in summary
    assert summary["test_agreement"] > 0.6


# --- what is refused before the search ------------------------------------------------------------


def mismatch(kind: str, files: FolderFiles, **changes: Any) -> str:
    """What `prepare` says of data or settings that do not fit."""
    given = job(kind, files, UniformSpec(), **{k: v for k, v in changes.items() if k in SETTINGS})
    given = replace(given, **{k: v for k, v in changes.items() if k not in SETTINGS})
    with pytest.raises(DatasetMismatch) as error:
        engine.prepare(given, files)
    return str(error.value)


SETTINGS = frozenset({"evaluation", "finetune"})


@pytest.mark.parametrize(("dtype", "shift"), [(np.uint8, 10), (np.int8, -10), (np.int64, 1)])
def test_tokens_outside_the_vocabulary_are_refused(
    files: FolderFiles, dtype: Any, shift: int
) -> None:
    tokens = (sentences()["inputs"] + shift).astype(dtype)
    dataset = store({"inputs": tokens, "labels": sentences()["labels"]}, files)
    assert "the embedding has 50 rows" in mismatch("text", files, dataset=dataset)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_of_other_floats_are_refused(files: FolderFiles, dtype: torch.dtype) -> None:
    network = pack_and_store(mlp(13).to(dtype), torch.zeros(2, 13, dtype=dtype), files)
    assert "network.float()" in mismatch("wine", files, network=network)


def test_labels_from_one_are_refused_with_the_reason(files: FolderFiles) -> None:
    dataset = store({"x": wine()["x"], "y": wine()["y"] + 1}, files)
    assert "labels count from 0: the largest can be 2" in mismatch("wine", files, dataset=dataset)


def test_top5_of_three_classes_is_refused(files: FolderFiles) -> None:
    evaluation = EvaluationSpec(metric="top5", calibration=20, holdout=20)
    assert "3 classes" in mismatch("wine", files, evaluation=evaluation)


def test_cropping_signals_is_refused_before_the_search(files: FolderFiles) -> None:
    augment = FineTuneSpec(augment="crop")
    assert "finetune.augment" in mismatch("waves", files, finetune=augment)


# --- the test split -------------------------------------------------------------------------------


def test_only_the_verification_reads_the_test_split(
    files: FolderFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Verification(Exception):
        pass

    def begins(**_: Any) -> None:
        raise Verification

    read: list[str] = []
    examples = Evaluator.examples

    def noted(evaluator: Evaluator, name: Any) -> Any:
        read.append(name)
        return examples(evaluator, name)

    monkeypatch.setattr(Evaluator, "examples", noted)
    monkeypatch.setattr(importlib.import_module("search.export.write"), "verify", begins)
    with pytest.raises(Verification):
        engine.run(job("iris", files, NETADAPT), files)
    assert set(read) == {"holdout"}


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_of_other_channels_or_data_is_refused(files: FolderFiles) -> None:
    """Though plan, seed and settings are the same."""
    given = job("wine", files, UniformSpec())
    prepared = engine.prepare(given, files)
    winner, _ = engine.find_winner(given, prepared, files)
    tuned = engine.tune(given, prepared, winner, None, files, should_stop=lambda: True)
    last = tuple(
        tuple(range(group.channels - len(kept), group.channels))
        for group, kept in zip(prepared.groups, winner.kept, strict=True)
    )
    assert last != winner.kept
    other_data = replace(given, dataset=store({**wine(), "x": wine()["x"] + 1}, files))
    for inputs, result in ((given, replace(winner, kept=last)), (other_data, winner)):
        with pytest.raises(CheckpointInvalid, match="another job"):
            engine.tune(inputs, prepared, result, tuned.checkpoint, files)
