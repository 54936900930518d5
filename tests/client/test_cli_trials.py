"""The command line on the trials of a job: tables, points, fronts and studies."""

from __future__ import annotations

import json
from pathlib import Path

from models.locks import lock_job
from models.trial import Trial
from tests.api.fixtures import Files, Running
from tests.client.commands import Run, refused, submitted


def test_trials_show_shares_of_the_cost(run: Run, running: Running, files: Files) -> None:
    job = submitted(run, files, "--strategy", "netadapt")
    with running.service.database.transaction() as session:
        for number, score in enumerate((0.75, None)):
            session.add(
                Trial(
                    job_id=job,
                    number=number,
                    plan=[4, 8],
                    parent=None if number == 0 else 0,
                    tuning_steps=5,
                    tags={"iteration": 1, "group": number},
                    score=score,
                    cost={"macs": 39192, "params": 1},
                    finished_at=0.0,
                )
            )
    result = run("trials", job)
    assert result.exit_code == 0, result.output
    head, first, second = [
        line
        for line in map(str.split, result.stdout.splitlines())
        if line and line[0] in ("trial", "0", "1")
    ]
    assert head == ["trial", "from", "MACs", "parameters", "top1", "score", "kept", "tags"]
    assert first[:3] == ["0", "50.0", "%"]
    assert "0.7500" in first
    assert second[:2] == ["1", "0"]
    assert second[-5:] == ["failed", "group", "1,", "iteration", "1"]
    refused(run("download", job, "--trial", "0"), 1, "weights are gone", "kept: none")
    assert not Path(job).exists(), "a refusal leaves no folder behind"
    assert json.loads(run("trials", job, "--json").stdout)[1]["parent"] == 0
    assert "no trial is kept" in run("trials", job, "--kept").stderr
    assert "only a search with several objectives" in run("trials", job, "--front").stderr


def test_points_and_finalists_are_told_apart(run: Run, running: Running, files: Files) -> None:
    job = submitted(run, files, "--strategy", "allocate", "--set", "strategy.points=2")
    assert "no points yet" in run("trials", job, "--points").stderr
    tags: list[dict[str, int | float]] = [
        {"group": 0}, {"group": 1}, {"power": 1.1, "slope": 0.5, "coupling": 1.0},
        {"final": 1}, {"final": 1}, {"point": 1}, {"point": 2},
    ]  # fmt: skip
    with running.service.database.transaction() as session:
        for number, each in enumerate(tags):
            session.add(
                Trial(
                    job_id=job, number=number, plan=[4, 8], tuning_steps=0, tags=each,
                    score=0.5 + number / 100, cost={"macs": 39192 + number, "params": 1},
                    metrics={"kl": number / 8} if number else {}, finished_at=0.0,
                )
            )  # fmt: skip
        row = lock_job(session, job)
        row.best = 4
        row.summary = {"points": [{"trial": 5}, {"trial": 6}]}
    shown = run("trials", job).stdout
    for words in (
        "losses of first",
        "losses of second",
        "slope 0.5",
        "finalist",
        "point 2",
        "0.375",
    ):
        assert words in shown
    found = json.loads(run("trials", job, "--points", "--json").stdout)
    assert [trial["number"] for trial in found] == [4, 5, 6]
    told = run("show", job).stdout
    assert f"2 further networks, see: espalier trials {job} --points" in told
    assert "None" not in told


def test_a_front_is_marked_and_a_study_fetched(
    run: Run, running: Running, files: Files, tmp_path: Path
) -> None:
    job = submitted(run, files, "--strategy", "optuna", "--set", "strategy.sampler=nsga2")
    with running.service.database.transaction() as session:
        lock_job(session, job).prepared = {"groups": []}
        for number, (score, macs) in enumerate(((0.75, 39192), (0.5, 40000), (0.25, 1000))):
            session.add(
                Trial(
                    job_id=job, number=number, plan=[], tuning_steps=0, tags={}, score=score,
                    cost={"macs": macs, "params": 1}, finished_at=0.0,
                )
            )  # fmt: skip
    shown = run("trials", job).stdout
    ahead = [line.split()[0] for line in shown.splitlines() if line.split()[-2:] == ["yes", "yes"]]
    assert ahead == ["0", "2"]
    found = json.loads(run("trials", job, "--front", "--json").stdout)
    assert [trial["number"] for trial in found] == [0, 2]
    result = run("study", job, "-o", tmp_path / "s" / "study.db")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s" / "study.db").read_bytes().startswith(b"SQLite format 3")
