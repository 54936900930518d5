"""Our own search by the whole service: one job's curve of budgets, and what later jobs take over.

One service is shared by the tests of this file, and most of them look at the same job.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import espalier
from benchmarks.attack.processes import processes
from benchmarks.service import Service
from espalier.cli import app
from espalier.connection import url_of
from espalier.format.build import graph_of
from espalier.format.package import read_package
from models.database import Database
from models.jobs import get_job, trials_of
from search.cost import CostModel
from search.evaluation.data import load_dataset
from search.evaluation.seeds import derive
from search.evaluation.splits import split
from search.graph import space_of
from search.spec import EvaluationSpec
from search.strategies.front import front as front_of_all
from tests.integration.conftest import Digits

EVALUATION = {"calibration": 128, "holdout": 200}
STRATEGY = {"name": "allocate", "trials": 3, "finalists": 2, "points": 2}
SPEC = {
    "budget": {"macs": "50%"},
    "strategy": STRATEGY,
    "evaluation": EVALUATION,
    "finetune": {"epochs": 1, "batch_size": 64},
    "seed": 3,
}


def cli(service: Service, *arguments: object) -> str:
    """What a command prints, all of it well."""
    result = CliRunner().invoke(
        app, [*map(str, arguments)], env={"ESPALIER_URL": service.url, "COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def job(service: Service, client: espalier.Client, uploads: dict[str, str]) -> str:
    """The first job, submitted as a user types it."""
    shown = cli(
        service, "submit", uploads["network"], "--data", uploads["dataset"],
        "--budget", "macs=50%", "--strategy", "allocate", "--set", "strategy.trials=3",
        "--set", "strategy.finalists=2", "--set", "strategy.points=2",
        "--set", "evaluation.calibration=128",
        "--set", "evaluation.holdout=200", "--set", "finetune.epochs=1",
        "--set", "finetune.batch_size=64", "--set", "seed=3",
    )  # fmt: skip
    (found,) = shown.split()
    assert client.wait(found, timeout=240)["state"] == "succeeded"
    return found


@pytest.fixture(scope="module")
def holdout(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of the hold-out, preprocessed by hand."""
    data = load_dataset(digits.data)
    where = split(data, EvaluationSpec.model_validate(EVALUATION), derive(3, 0)).holdout
    images = digits.arrays["train_images"][where][:, None].astype(np.float32) / 255
    return torch.from_numpy(images), torch.from_numpy(digits.arrays["train_labels"][where])


def stored(data: Path, job: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the database has of a job: what was prepared, and its trials."""
    database = Database(f"sqlite:///{next(data.glob('*.db'))}")
    try:
        with database.transaction(write=False) as session:
            columns = ("number", "solve", "weights", "levels_of", "losses", "tags", "score", "cost")
            trials = [
                {name: getattr(row, name) for name in columns}
                for row in trials_of(session, job, limit=None)
            ]
            return dict(get_job(session, job).prepared or {}), trials
    finally:
        database.dispose()


def artifact(client: espalier.Client, job: str, name: str) -> dict[str, Any]:
    return client.get(url_of("jobs", job, "artifacts", name))


def submitted(client: espalier.Client, uploads: dict[str, str], **changes: Any) -> str:
    found: str = client.submit({**SPEC, **uploads, **changes})["id"]
    assert client.wait(found, timeout=240)["state"] == "succeeded"
    return found


def test_the_winner_is_a_finalist_within_the_budget(client: espalier.Client, job: str) -> None:
    view, trials = client.job(job), {trial["number"]: trial for trial in client.trials(job)}
    limit = view["summary"]["macs"]["before"] // 2
    winner = trials[view["summary"]["winner"]]
    assert view["best"]["number"] == winner["number"]
    assert view["summary"]["macs"]["after"] == winner["cost"]["macs"] <= limit
    finalists = [trial for trial in trials.values() if "final" in trial["tags"]]
    points = [trial for trial in trials.values() if "point" in trial["tags"]]
    assert (len(finalists), len(points)) == (2, 2)
    assert winner in finalists
    costs = [trial["cost"]["macs"] for trial in sorted(points, key=lambda t: t["tags"]["point"])]
    assert limit < costs[0] < costs[1] < 2 * limit
    levels = sorted(trial["tags"]["group"] for trial in trials.values() if "group" in trial["tags"])
    assert levels == list(range(len(winner["plan"])))


def test_finalists_and_points_keep_their_weights(data: Path, job: str) -> None:
    _, trials = stored(data, job)
    solved = [trial for trial in trials if {"final", "point"} & trial["tags"].keys()]
    assert len(solved) == 4
    assert all(trial["solve"] == "full" and trial["weights"] for trial in solved)
    assert not any(trial["weights"] for trial in trials if trial not in solved)


def check_downloads(
    service: Service,
    client: espalier.Client,
    job: str,
    holdout: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    weights: str = "solved",
) -> list[dict[str, Any]]:
    """Fetch what was solved for, and count what it gets right: as the trial says. These trials."""
    inputs, labels = holdout
    trials = list(client.trials(job))
    solved = [trial for trial in trials if {"final", "point"} & trial["tags"].keys()]
    for trial in solved:
        cli(service, "download", job, "--trial", trial["number"], "-o", tmp_path)
        path = tmp_path / f"{job}-trial-{trial['number']}.espalier"
        network = espalier.load(path)
        with torch.inference_mode():
            right = (network(inputs).argmax(1) == labels).sum()
        assert float(right) / len(labels) == trial["metrics"]["top1"] == trial["score"]
        assert CostModel(space_of(graph_of(network))).full == trial["cost"]
        facts = read_package(path).manifest.extra["trial"]
        assert isinstance(facts, dict)
        assert (facts["weights"], facts["finetuned"]) == (weights, False)
    return solved


def test_a_point_comes_as_it_was_scored(
    service: Service,
    client: espalier.Client,
    job: str,
    holdout: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    assert len(check_downloads(service, client, job, holdout, tmp_path)) == 4


@pytest.mark.parametrize(
    ("reconstruction", "weights"), [("parallel", "solved"), ("none", "scored")]
)
def test_so_does_a_point_of_a_front(
    service: Service,
    client: espalier.Client,
    uploads: dict[str, str],
    holdout: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    reconstruction: str,
    weights: str,
) -> None:
    front = submitted(
        client,
        uploads,
        strategy={"name": "optuna", "sampler": "nsga2", "trials": 12, "points": 3},
        evaluation={**EVALUATION, "reconstruction": reconstruction},
        finetune={"epochs": 0},
    )
    solved = check_downloads(service, client, front, holdout, tmp_path, weights)
    assert [trial["number"] for trial in solved] == list(range(12, 12 + len(solved)))
    # The search follows from what returns first, and so does the size of the front.
    searched = {
        trial["number"]: (trial["score"], float(trial["cost"]["macs"]))
        for trial in client.trials(front)
        if trial["number"] < 12
    }
    assert len(solved) == min(4, len(front_of_all(("score", "macs"), searched))) > 1
    summary, curve = client.job(front)["summary"], client.curve(front)
    assert [point["trial"] for point in curve["points"]] == [t["number"] for t in solved[1:]]
    assert [point["trial"] for point in summary["points"]] == [t["number"] for t in solved[1:]]
    shown = cli(service, "trials", front, "--points")
    costs = [float(line.split()[1]) for line in shown.splitlines() if line.strip()[:1].isdecimal()]
    assert costs == sorted(costs)
    assert len(costs) == len(solved)
    told = {trial["number"] for trial in client.trials(front) if trial["front"]}
    assert summary["winner"] in told
    if reconstruction == "none":  # scored as they were, so that they stand for them
        assert summary["winner"] == 12
        assert {trial["number"] for trial in solved} <= told


def test_the_curve_is_shown_and_told(service: Service, client: espalier.Client, job: str) -> None:
    summary, trials = client.job(job)["summary"], list(client.trials(job))
    points = [trial for trial in trials if "point" in trial["tags"]]
    assert summary["points"] == [
        {"trial": trial["number"], "cost": trial["cost"], "score": trial["score"]}
        for trial in points
    ]
    curve = client.curve(job)
    assert curve["winner"]["trial"] == summary["winner"]
    assert [point["trial"] for point in curve["points"]] == [trial["number"] for trial in points]
    lines = [line.split() for line in cli(service, "trials", job, "--points").splitlines()]
    numbers = [line[0] for line in lines if line and line[0].isdecimal()]
    assert numbers == [str(summary["winner"]), *(str(trial["number"]) for trial in points)]
    assert f"espalier trials {job} --points" in cli(service, "show", job)


def test_another_budget_takes_the_levels_over(
    client: espalier.Client, uploads: dict[str, str], data: Path, job: str
) -> None:
    again = submitted(client, uploads, budget={"params": "60%"})
    prepared, trials = stored(data, again)
    assert not [trial for trial in trials if trial["levels_of"] is not None]
    _, before = stored(data, job)
    measured = {trial["levels_of"]: trial["losses"] for trial in before}
    assert prepared["levels"] == [measured[group] for group in range(len(prepared["groups"]))]
    groups = [artifact(client, each, "levels.json") for each in (job, again)]
    assert [each["taken_over"] for each in groups] == [False, True]
    assert groups[0]["groups"] == groups[1]["groups"]


def test_a_killed_worker_changes_nothing(
    service: Service, client: espalier.Client, uploads: dict[str, str], data: Path, job: str
) -> None:
    """Nor does it matter to the plans and their weights that the levels were known before."""
    again: str = client.submit({**SPEC, **uploads})["id"]
    while client.job(again)["trials"] < 2:
        time.sleep(0.1)
    killed = processes(service, "child")[0]
    killed.kill()
    assert client.wait(again, timeout=240)["state"] == "succeeded"
    assert not any(trial["levels_of"] is not None for trial in stored(data, again)[1])
    curves = [client.curve(each) for each in (job, again)]
    for curve in curves:
        for network in (curve["winner"], *curve["points"]):
            del network["trial"]  # the first job's begin behind the levels
    assert curves[0] == curves[1]
    weights = [
        [trial["weights"] for trial in stored(data, each)[1] if trial["weights"]]
        for each in (job, again)
    ]
    assert weights[0] == weights[1]


def test_other_settings_measure_anew(
    client: espalier.Client, uploads: dict[str, str], data: Path, job: str
) -> None:
    other = submitted(client, uploads, evaluation={**EVALUATION, "calibration": 64})
    prepared, trials = stored(data, other)
    assert prepared["levels"] is None
    anew = [trial["losses"] for trial in trials if trial["levels_of"] is not None]
    assert len(anew) == len(prepared["groups"])
    assert anew != [trial["losses"] for trial in stored(data, job)[1] if trial["losses"]]


@pytest.mark.usefixtures("job")  # whose levels it takes over
def test_a_budget_that_holds_already_keeps_the_original(
    client: espalier.Client, uploads: dict[str, str]
) -> None:
    whole = submitted(client, uploads, budget={"macs": "100%"})
    summary = client.job(whole)["summary"]
    assert summary["macs"]["after"] == summary["macs"]["before"]
    assert not [trial for trial in client.trials(whole) if "point" in trial["tags"]]


def test_a_trial_that_was_not_solved_in_full_comes_cut_alone(
    client: espalier.Client, job: str, tmp_path: Path
) -> None:
    draft = next(trial for trial in client.trials(job) if "power" in trial["tags"])
    assert draft["kept"]
    facts = read_package(client.download_trial(job, draft["number"], tmp_path)).manifest.extra
    trial = facts["trial"]
    assert isinstance(trial, dict)
    assert trial["weights"] == "original"
    assert json.dumps(trial)
