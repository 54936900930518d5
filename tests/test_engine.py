"""A whole job, from a package to verified files, on real data."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.digits import save_digits, train
from espalier.format.build import load
from espalier.format.lift import pack
from espalier.format.manifest import Preprocessing
from espalier.targets import Target
from search import context, engine
from search.cost import CostModel, UnreachableBudget, chain_times
from search.cost.chains import Chain
from search.evaluation import checkpoint, guard
from search.evaluation.errors import DatasetMismatch
from search.evaluation.guard import UnsoundTorch
from search.evaluation.plausibility import BaselineAtChance
from search.files import FolderFiles
from search.graph import space_of
from search.pruning import apply, select
from search.records import Finished, Inputs, LossCurves, Prepared, Trial, TrialResult, Tuned
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec, RoundingSpec
from search.strategies.base import Outcome, Proposal
from search.strategy_specs import (
    AllocateSpec,
    NetAdaptSpec,
    RandomSpec,
    SensitivitySpec,
    StrategySpec,
    UniformSpec,
)
from tests.cost.test_staircase import blocked

NETADAPT = NetAdaptSpec(first_step=0.25, decay=1.0, tuning_steps=2)


@dataclass(frozen=True)
class Materials:
    """A trained network and its data, in a store."""

    folder: Path
    files: FolderFiles
    package: Path
    network: str
    dataset: str
    test_images: np.ndarray[Any, Any]
    test_labels: np.ndarray[Any, Any]

    def job(self, strategy: StrategySpec = NETADAPT, **changes: Any) -> Inputs:
        spec = JobSpec(
            network="network",
            dataset="digits",
            budget=BudgetSpec(macs="50%"),
            strategy=strategy,
            evaluation=EvaluationSpec(metric="cross_entropy", calibration=128, holdout=200),
            finetune=FineTuneSpec(epochs=2, batch_size=64),
            rounding=RoundingSpec(multiple=1),
            seed=7,
        )
        return Inputs(spec.model_copy(update=changes), self.network, self.dataset)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("engine")
    arrays = save_digits(folder / "digits.npz")
    network = train(arrays["train_images"], arrays["train_labels"], epochs=3)
    package = pack(
        network,
        torch.zeros(1, 1, 8, 8),
        folder / "digits.espalier",
        preprocessing=Preprocessing(scale=1 / 255),
        classes=[str(digit) for digit in range(10)],
    )
    files = FolderFiles(folder / "files")
    return Materials(
        folder,
        files,
        package,
        files.put(package),
        files.put(folder / "digits.npz"),
        arrays["test_images"],
        arrays["test_labels"],
    )


@pytest.fixture(scope="module")
def finished(materials: Materials) -> Finished:
    return engine.run(materials.job(), materials.files)


def artifact(finished: Finished, name: str, files: FolderFiles) -> Path:
    (digest,) = (item.digest for item in finished.artifacts if item.name == name)
    return files.path(digest)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Every step begins like a new process: nothing is cached."""
    context.forget()
    yield
    context.forget()


def test_prepare_says_what_there_is(materials: Materials) -> None:
    prepared = engine.prepare(materials.job(), materials.files)
    space = space_of(load(materials.package).meta["espalier"])
    cost = CostModel(space)
    assert prepared.cost == cost.of(space.full)
    assert prepared.limits == {"macs": prepared.cost["macs"] // 2}
    assert prepared.smallest == cost.of((1,) * len(space.groups))
    assert [(g.name, g.channels) for g in prepared.groups] == [
        (g.name, g.channels) for g in space.groups
    ]
    assert prepared.score == -prepared.baseline["cross_entropy"]
    assert prepared.baseline["agreement"] == 1


def test_unreachable_budget_is_refused_before_the_data_is_read(materials: Materials) -> None:
    nothing = materials.folder / "nothing"
    nothing.write_bytes(b"no dataset")
    job = replace(materials.job(budget=BudgetSpec(macs=1000)), dataset=materials.files.put(nothing))
    with pytest.raises(UnreachableBudget, match="smallest reachable") as error:
        engine.prepare(job, materials.files)
    assert error.value.smallest["macs"] > 1000


def test_data_of_another_shape_is_refused(materials: Materials) -> None:
    path = materials.folder / "other.npz"
    np.savez(path, images=np.zeros((500, 9, 9), np.uint8), labels=np.arange(500) % 10)
    job = replace(materials.job(), dataset=materials.files.put(path))
    with pytest.raises(DatasetMismatch, match=r"\(9, 9\)"):
        engine.prepare(job, materials.files)


def test_job_ends_within_the_budget_as_counted_and_verified(
    materials: Materials, finished: Finished
) -> None:
    summary = finished.summary
    network = load(artifact(finished, "network.espalier", materials.files))
    space = space_of(network.meta["espalier"])
    cost = CostModel(space).of(space.full)
    for name, count in cost.items():
        assert summary[name]["after"] == count
    assert cost["macs"] <= summary["macs"]["before"] // 2
    assert cost["params"] == sum(p.numel() for p in network.parameters())
    assert summary["verified"] is True
    with torch.inference_mode():
        inputs = torch.from_numpy(materials.test_images[:, None]).float() / 255
        right = network(inputs).argmax(1).numpy() == materials.test_labels
    assert summary["test_accuracy"]["after"] == pytest.approx(right.mean(), abs=1e-9)
    assert summary["test_accuracy"]["after"] > 0.8
    written = json.loads(artifact(finished, "metrics.json", materials.files).read_text())
    assert written.items() >= {k: v for k, v in summary.items() if k != "seconds"}.items()


def test_files_of_the_result_are_what_they_say(materials: Materials, finished: Finished) -> None:
    names = {item.name for item in finished.artifacts}
    assert {"network.espalier", "network.onnx", "plan.json", "metrics.json",
            "trials.json", "report.html"} <= names  # fmt: skip
    for item in finished.artifacts:
        assert materials.files.path(item.digest).stat().st_size == item.size_bytes
        assert "/" in item.media_type


@pytest.fixture(scope="module")
def prepared(materials: Materials) -> Prepared:
    return engine.prepare(materials.job(), materials.files)


def _unraced(trial: Trial) -> Trial:
    """Without the score to beat, which depends on what has returned."""
    return replace(trial, proposal=replace(trial.proposal, floor=None))


@pytest.mark.usefixtures("forgetful")
def test_same_winner_for_any_number_of_slots_and_every_time(
    materials: Materials, prepared: Prepared, finished: Finished
) -> None:
    """To the last bit: weights are compared by their digests."""
    job, files = materials.job(), materials.files
    winner, trials = engine.find_winner(job, prepared, files, slots=3)
    context.forget()
    again, trials_again = engine.find_winner(job, prepared, files, slots=1)
    assert again == winner
    assert [_unraced(trial) for trial in trials_again] == [_unraced(trial) for trial in trials]
    written = json.loads(artifact(finished, "plan.json", files).read_text())
    assert tuple(written["plan"]) == winner.outcome.plan
    assert [tuple(group["kept"]) for group in written["groups"]] == list(winner.kept)
    tuned = engine.tune(job, prepared, winner, None, files)
    tensors, _ = checkpoint.restore(files.path(tuned.checkpoint))
    exported = load(artifact(finished, "network.espalier", files)).state_dict()
    assert all(torch.equal(value, tensors[f"best/{name}"]) for name, value in exported.items())


@pytest.mark.parametrize(
    "strategy",
    [
        UniformSpec(),
        RandomSpec(trials=3),
        NetAdaptSpec(first_step=0.25, selection="ratio"),
        SensitivitySpec(levels=2),
        AllocateSpec(trials=2, finalists=1, points=1),
    ],
    ids=lambda spec: spec.name,
)
def test_every_strategy_meets_several_limits_under_rounding(
    materials: Materials, strategy: StrategySpec
) -> None:
    if isinstance(strategy, NetAdaptSpec):
        strategy = strategy.model_copy(update={"tuning_steps": 0})
    job = materials.job(
        strategy,
        budget=BudgetSpec(macs="60%", params="40%"),
        rounding=RoundingSpec(multiple=4, minimum=4),
    )
    prepared = engine.prepare(job, materials.files)
    winner, trials = engine.find_winner(job, prepared, materials.files, slots=2)
    assert (winner.weights is not None) == isinstance(strategy, AllocateSpec)
    assert all(width % 4 == 0 for width in winner.outcome.plan)
    smaller = apply(
        load(materials.package), space_of(load(materials.package).meta["espalier"]), winner.kept
    )
    space = space_of(smaller.meta["espalier"])
    cost = CostModel(space).full
    assert cost == winner.outcome.cost
    assert all(cost[name] <= limit for name, limit in prepared.limits.items())
    assert [trial.proposal.number for trial in trials] == list(range(len(trials)))


def test_every_step_goes_by_the_widths_that_were_prepared(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search, the measurement of a group, and the uniform plan beside the winner."""
    job, files = materials.job(AllocateSpec(trials=2, finalists=1)), materials.files
    fine = engine.prepare(job, files)
    assert fine.choices is not None
    coarse = tuple(tuple(w for w in options if w % 4 == 0) for options in fine.choices)
    monkeypatch.setattr(engine, "prepare", lambda *_: replace(fine, choices=coarse))
    finished = engine.run(job, files)
    metrics = json.loads(artifact(finished, "metrics.json", files).read_text())
    trials = json.loads(artifact(finished, "trials.json", files).read_text())["trials"]
    plans = [metrics["uniform"]["plan"], *(trial["plan"] for trial in trials)]
    assert len(plans) == 1 + len(coarse) + 3
    assert all(w in options for plan in plans for w, options in zip(plan, coarse, strict=True))
    curves = json.loads(artifact(finished, "levels.json", files).read_text())["groups"]
    assert all(point["kept"] % 4 == 0 for group in curves for point in group["anchors"])


@pytest.mark.usefixtures("forgetful")
def test_a_job_prepared_before_widths_were_stored_goes_on_with_those_of_its_rounding(
    materials: Materials,
) -> None:
    rounding = RoundingSpec(multiple=4, minimum=4)
    job = materials.job(AllocateSpec(trials=2, finalists=1), rounding=rounding)
    files, prepared = materials.files, engine.prepare(job, materials.files)
    stored = prepared.to_json()
    assert stored.pop("choices")
    begun = Prepared.from_json(json.loads(json.dumps(stored)))
    assert begun.choices is None
    found = engine.find_winner(job, begun, files)
    assert found == engine.find_winner(job, prepared, files)
    finished = [
        engine.finalize(job, each, found[0], None, found[1], files) for each in (begun, prepared)
    ]
    plans = [artifact(each, "plan.json", files).read_bytes() for each in finished]
    assert plans[0] == plans[1]


def test_fast_widths_are_found_once_and_the_next_job_decides_alike(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels pad to four channels; the times of the first job are all that the second one has."""
    measured: list[int] = []

    def measure(chains: dict[str, Chain], _: Target) -> dict[str, float]:
        measured.append(len(chains))
        return {name: blocked(chain, 4) for name, chain in chains.items()}

    monkeypatch.setattr(chain_times, "measure", measure)
    job, files = (
        materials.job(UniformSpec(), rounding=RoundingSpec(multiple="auto")),
        materials.files,
    )
    first = engine.prepare(job, files)
    assert first.staircase is not None
    assert first.choices is not None
    assert all(width % 4 == 0 for options in first.choices for width in options)
    assert min(map(len, first.choices)) > 1
    assert measured == [first.staircase.measured] == [len(first.staircase.seconds)]
    again = engine.prepare(job, files, seconds=first.staircase.seconds)
    assert again == replace(first, staircase=replace(first.staircase, measured=0))
    assert len(measured) == 1
    winner, _ = engine.find_winner(job, first, files)
    assert all(width % 4 == 0 for width in winner.outcome.plan)
    assert first.warnings == ()
    limit = first.smallest["macs"] * 9 // 10
    spec = job.spec.model_copy(update={"budget": BudgetSpec(macs=limit)})
    third = engine.prepare(replace(job, spec=spec), files, seconds=first.staircase.seconds)
    (warning,) = third.warnings
    assert warning.code == "widths.slow"
    assert third.staircase is not None
    assert third.staircase.needed
    assert third.staircase.needed[0] in warning.message
    assert third.smallest["macs"] <= limit


def test_layers_that_a_runtime_refuses_end_no_job(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(chain_times, "interleaved", refused)
    job = materials.job(UniformSpec(), rounding=RoundingSpec(multiple="auto"))
    prepared = engine.prepare(job, materials.files)
    assert prepared.choices is not None
    assert all(width % 8 == 0 for options in prepared.choices for width in options)
    assert [warning.code for warning in prepared.warnings] == ["widths.unmeasured"]


def test_loss_curves_are_taken_over_by_the_widths_that_they_were_measured_under(
    materials: Materials,
) -> None:
    job, files = materials.job(rounding=RoundingSpec(multiple=4)), materials.files
    bare = engine.prepare(job, files)
    assert bare.levels is None
    assert bare.choices is not None

    def curves(number: float, choices: Any, **rounding: int) -> LossCurves:
        losses = tuple((number,) * group.channels for group in bare.groups)
        return LossCurves(losses, choices, RoundingSpec(**rounding))

    other = ((1,), *bare.choices[1:])
    known = [curves(1, other, multiple=4), curves(2, bare.choices), curves(3, bare.choices)]
    assert engine.prepare(job, files, known).levels == known[1].losses
    assert engine.prepare(job, files, known[:1]).levels is None
    old = [curves(1, None), curves(2, None, multiple=4)]  # of jobs that did not store their widths
    assert engine.prepare(job, files, old).levels == old[1].losses


def first_round(
    materials: Materials, prepared: Prepared
) -> tuple[list[Proposal], dict[int, TrialResult]]:
    advanced = engine.advance(materials.job(), prepared, None, (), 100)
    results = {
        p.number: engine.evaluate(materials.job(), prepared, p, None, materials.files)
        for p in advanced.proposals
    }
    outcomes = [result.outcome for result in reversed(results.values())]
    second = engine.advance(materials.job(), prepared, advanced.state, outcomes, 100)
    assert set(second.needed) >= {second.best}
    return list(second.proposals), results


def test_child_keeps_some_of_its_parents_channels_and_goes_on_with_its_weights(
    materials: Materials, prepared: Prepared
) -> None:
    job, files = materials.job(), materials.files
    proposals, results = first_round(materials, prepared)
    proposal = proposals[0]
    assert proposal.parent is not None
    parent = results[proposal.parent]
    assert parent.weights is not None
    child = engine.evaluate(job, prepared, proposal, parent, files)
    assert tuple(map(len, child.kept)) == proposal.plan
    assert all(set(a) <= set(b) for a, b in zip(child.kept, parent.kept, strict=True))
    assert engine.evaluate(job, prepared, proposal, parent, files) == child
    # The same channels from the original's weights score otherwise: the tuned ones were used.
    fresh = context.context_of(job, files).evaluator.evaluate(child.kept, tuning_steps=2, seed=1)
    assert fresh.score != child.outcome.score
    with pytest.raises(ValueError, match="starts from trial"):
        engine.evaluate(job, prepared, proposal, None, files)


def test_untuned_child_is_ranked_by_the_originals_weights(
    materials: Materials, prepared: Prepared
) -> None:
    job, files = materials.job(UniformSpec()), materials.files
    space = context.context_of(job, files).problem.space
    half = tuple(max(1, count // 2) for count in space.full)
    quarter = tuple(max(1, count // 4) for count in space.full)
    parent = engine.evaluate(job, prepared, Proposal(0, half), None, files)
    child = engine.evaluate(job, prepared, Proposal(1, quarter, parent=0), parent, files)
    assert parent.weights is None
    assert child.weights is None
    original, generator = load(materials.package), torch.Generator()
    assert parent.kept == select(original, space, half, "l1", generator)
    assert child.kept == select(original, space, quarter, "l1", generator, parent.kept)


def test_trials_of_chance_depend_on_seed_and_number_alone(
    materials: Materials, prepared: Prepared
) -> None:
    job, files = materials.job(criterion="random"), materials.files
    half = tuple(max(1, group.channels // 2) for group in prepared.groups)
    proposals = [Proposal(number, half, tuning_steps=1) for number in range(3)]
    forward = [engine.evaluate(job, prepared, p, None, files) for p in proposals]
    backward = [engine.evaluate(job, prepared, p, None, files) for p in reversed(proposals)]
    assert forward == backward[::-1]
    assert len({result.kept for result in forward}) == 3
    other = engine.evaluate(
        materials.job(criterion="random", seed=8), prepared, proposals[0], None, files
    )
    assert other.kept != forward[0].kept


@pytest.mark.usefixtures("forgetful")
def test_tuning_in_slices_equals_tuning_at_once(materials: Materials, prepared: Prepared) -> None:
    job, files = materials.job(), materials.files
    half = tuple(max(1, group.channels // 2) for group in prepared.groups)
    winner = engine.evaluate(job, prepared, Proposal(0, half, tuning_steps=2), None, files)
    whole = engine.tune(job, prepared, winner, None, files)
    assert whole.done
    seen: list[float] = []
    counter = itertools.count(1)
    sliced: Tuned | None = None
    while sliced is None or not sliced.done:
        context.forget()
        sliced = engine.tune(
            job,
            prepared,
            winner,
            None if sliced is None else sliced.checkpoint,
            files,
            should_stop=lambda: next(counter) % 7 == 0,
            progress=lambda _stage, fraction, _facts: seen.append(fraction),
        )
    assert next(counter) > 21
    assert sliced.history == whole.history
    assert sliced.checkpoint == whole.checkpoint
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.usefixtures("forgetful")
def test_a_job_that_began_before_there_were_versions_goes_on_as_it_began(
    materials: Materials,
) -> None:
    """Its checkpoint names the specification as it was stored then; splits are those of then."""
    job, files = materials.job(UniformSpec()), materials.files
    stored = job.to_json()
    del stored["spec"]["version"]
    del stored["spec"]["target"]
    del stored["spec"]["evaluation"]["allow_chance"]
    begun = Inputs.from_json(json.loads(json.dumps(stored)))
    prepared = engine.prepare(begun, files)
    assert engine.prepare(job, files).baseline != prepared.baseline
    winner, _ = engine.find_winner(begun, prepared, files)
    first = engine.tune(begun, prepared, winner, None, files, should_stop=lambda: True)
    _, facts = checkpoint.restore(files.path(first.checkpoint))
    subject = json.dumps([stored, winner.kept, winner.weights])
    assert facts["identity"]["subject"] == hashlib.sha256(subject.encode()).hexdigest()
    assert facts["identity"]["spec"] == stored["spec"]["finetune"]
    context.forget()
    again = Inputs.from_json(json.loads(json.dumps(begun.to_json())))  # stored by this version
    rest = engine.tune(again, prepared, winner, first.checkpoint, files)
    assert rest == engine.tune(begun, prepared, winner, None, files)
    assert rest.done
    with pytest.raises(checkpoint.CheckpointInvalid):
        engine.tune(job, prepared, winner, first.checkpoint, files)


def test_an_original_at_chance_is_refused_before_the_search(materials: Materials) -> None:
    """The labels are one off; without labels nothing is known of chance."""
    arrays = dict(np.load(materials.folder / "digits.npz"))
    arrays["train_labels"] = (arrays["train_labels"] + 1) % 10
    path = materials.folder / "shifted.npz"
    np.savez(path, **arrays)
    job = replace(materials.job(), dataset=materials.files.put(path))
    with pytest.raises(BaselineAtChance, match=r"top-1 .* evaluation\.allow_chance"):
        engine.prepare(job, materials.files)
    allowed = EvaluationSpec(
        metric="cross_entropy", calibration=128, holdout=200, allow_chance=True
    )
    spec = job.spec.model_copy(update={"evaluation": allowed})
    warnings = engine.prepare(replace(job, spec=spec), materials.files).warnings
    assert warnings[0].code == BaselineAtChance.code
    bare = {name: arrays[name] for name in ("train_images", "test_images")}
    np.savez(path, **bare)
    agreement = job.spec.evaluation.model_copy(update={"metric": "agreement"})
    spec = job.spec.model_copy(update={"evaluation": agreement})
    unlabelled = replace(job, dataset=materials.files.put(path), spec=spec)
    assert engine.prepare(unlabelled, materials.files).warnings == ()


def test_a_draft_that_wins_is_tuned_from_what_was_scored(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finalist could be solved for, and the weights of drafts are not kept."""
    job, files = materials.job(AllocateSpec(trials=2, finalists=1)), materials.files
    plain = engine.evaluate

    def no_finalists(
        inputs: Inputs, prepared: Prepared, proposal: Proposal, *rest: Any
    ) -> TrialResult:
        if proposal.solve == "full":
            return TrialResult(Outcome(proposal.number, proposal.plan, None), ())
        return plain(inputs, prepared, proposal, *rest)

    monkeypatch.setattr(engine, "evaluate", no_finalists)
    prepared = engine.prepare(job, files)
    winner, _ = engine.find_winner(job, prepared, files)
    assert (winner.solve, winner.weights) == ("draft", None)
    before = engine.tune(job, prepared, winner, None, files).history[0]
    assert before["kl"] == pytest.approx(winner.outcome.metrics["kl"], rel=1e-6)


def test_search_without_a_winner_says_so(
    materials: Materials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Inputs, __: Prepared, proposal: Proposal, *___: Any) -> TrialResult:
        return TrialResult(Outcome(proposal.number, proposal.plan, None), ())

    monkeypatch.setattr(engine, "evaluate", fails)
    with pytest.raises(engine.SearchFailed, match="none of 3 trials"):
        engine.run(materials.job(RandomSpec(trials=3)), materials.files)


def test_a_job_that_trains_stops_where_torch_computes_wrong_gradients(
    materials: Materials, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(guard, "_sound", set())
    swept: list[str] = []

    def sweep(threads: list[int], module: str) -> str:
        swept.append(f"{module} {threads}")
        return "case 7"

    monkeypatch.setattr(guard, "_sweep", sweep)
    job = materials.job()
    context.forget()
    with pytest.raises(UnsoundTorch, match="wrong gradients on this machine, case 7") as caught:
        engine.run(job, materials.files)
    assert caught.value.code == "evaluation.torch"
    assert context._last is not None
    assert "evaluator" not in vars(context._last)  # nor had any data been read
    # Nor does a worker go on whose torch is another than the one that prepared the job.
    proposal = Proposal(0, tuple(group.channels for group in prepared.groups), tuning_steps=1)
    with pytest.raises(UnsoundTorch):
        engine.evaluate(job, prepared, proposal, None, materials.files)
    untuned = engine.evaluate(
        job, prepared, replace(proposal, tuning_steps=0), None, materials.files
    )
    with pytest.raises(UnsoundTorch):
        engine.tune(job, prepared, untuned, None, materials.files)
    assert len(swept) == 1
    bare = materials.job(UniformSpec(), finetune=FineTuneSpec(epochs=0))
    assert engine.prepare(bare, materials.files).baseline
