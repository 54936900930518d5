"""A job as a study of Optuna's: what Optuna reads from the file is what the job's trials are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from espalier.client import Client
from models.locks import lock_job
from models.trial import Trial
from tests.api.fixtures import Running

Spec = dict[str, Any]
GROUPS = [{"name": "first", "channels": 8}, {"name": "second", "channels": 16}]
PLANS = [(8, 16), (4, 8), (5, 9), (2, 3), (6, 6)]
SCORES = [0.9, 0.7, None, 0.7, None]  # the last one still runs


def cost_of(plan: tuple[int, ...]) -> dict[str, int]:
    return {"macs": 100 * sum(plan), "params": plan[0] * plan[1]}


def begun(http: httpx.Client, running: Running, spec: Spec, strategy: Spec) -> str:
    """A job with a few trials: two alike in their score, one failed, one running."""
    answer = http.post("/v1/jobs", json={**spec, "strategy": strategy}).raise_for_status().json()
    with running.service.database.transaction() as session:
        job = lock_job(session, answer["id"])
        job.prepared = {"groups": GROUPS}
        for number, (plan, score) in enumerate(zip(PLANS, SCORES, strict=True)):
            over = number < len(PLANS) - 1
            session.add(
                Trial(
                    job_id=job.id,
                    number=number,
                    plan=list(plan),
                    parent=0 if number == 1 else None,
                    tuning_steps=0,
                    tags={"iteration": number},
                    score=score,
                    metrics={"top1": score} if score is not None else None,
                    cost=cost_of(plan) if score is not None else None,
                    kept=[list(range(width)) for width in plan],
                    told=over,
                    created_at=1000.0 + number,
                    finished_at=2000.0 + number if over else None,
                )
            )
        job.best = 0
    return str(answer["id"])


def loaded(running: Running, job: str, folder: Path) -> optuna.Study:
    with Client(running.url) as client:
        path = client.download_study(job, folder / "study.db")
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.WARNING)
    return optuna.load_study(study_name=None, storage=f"sqlite:///{path}")


def test_optuna_reads_the_trials(
    http: httpx.Client, running: Running, spec: Spec, tmp_path: Path
) -> None:
    job = begun(http, running, spec, {"name": "random"})
    study = loaded(running, job, tmp_path)
    assert study.study_name == job
    assert study.directions == [StudyDirection.MAXIMIZE]
    assert study.metric_names == ["score (top1)"]
    assert study.user_attrs["strategy"] == {"name": "random", "trials": 20}
    done, failed, runs = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING
    assert [trial.state for trial in study.trials] == [done, done, failed, done, runs]
    for number, trial in enumerate(study.trials):
        assert trial.number == number
        assert trial.params == {"first": PLANS[number][0] / 8, "second": PLANS[number][1] / 16}
        assert not trial.intermediate_values
        assert trial.user_attrs["plan"] == list(PLANS[number])
        if trial.state is done:
            assert trial.value == SCORES[number]
            assert trial.user_attrs["top1"] == SCORES[number]
            assert trial.user_attrs["macs"] == cost_of(PLANS[number])["macs"]
            assert trial.duration is not None
            assert trial.duration.total_seconds() == 1000
        else:
            assert trial.values is None
    assert study.best_trial.number == 0
    assert study.trials[1].user_attrs["parent"] == 0
    assert "parent" not in study.trials[0].user_attrs


def test_a_search_for_several_things_has_a_value_for_each(
    http: httpx.Client, running: Running, spec: Spec, tmp_path: Path
) -> None:
    strategy = {"name": "optuna", "sampler": "nsga2", "objectives": ["params", "score", "macs"]}
    job = begun(http, running, spec, strategy)
    study = loaded(running, job, tmp_path)
    low, high = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    assert study.directions == [low, high, low]
    assert study.metric_names == ["params", "score (top1)", "macs"]
    assert study.trials[1].values == [32, 0.7, 1200]
    listed = http.get(f"/v1/jobs/{job}/trials").json()["items"]
    ahead = [trial["number"] for trial in listed if trial["front"]]
    assert ahead == sorted(trial.number for trial in study.best_trials) == [0, 3]


def test_only_a_search_for_several_things_has_a_front(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = begun(http, running, spec, {"name": "optuna", "sampler": "cmaes"})
    listed = http.get(f"/v1/jobs/{job}/trials").json()["items"]
    assert {trial["front"] for trial in listed} == {None}
    assert [trial["kept"] for trial in listed] == [True, True, False, True, False]


def test_what_a_canceled_job_left_open_has_failed(
    http: httpx.Client, running: Running, spec: Spec, tmp_path: Path
) -> None:
    job = begun(http, running, spec, {"name": "random"})
    http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    last = loaded(running, job, tmp_path).trials[-1]
    assert last.state is TrialState.FAIL
    assert last.datetime_complete is not None


def test_a_job_that_has_no_trials_yet_is_an_empty_study(
    http: httpx.Client, running: Running, spec: Spec, tmp_path: Path
) -> None:
    job = http.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
    assert loaded(running, job, tmp_path).trials == []
    assert http.get("/v1/jobs/job_nothing/study").status_code == 404


@pytest.mark.parametrize("name", ["study", "trials/0/network"])
def test_what_is_made_is_not_sent_twice(
    http: httpx.Client, running: Running, spec: Spec, name: str
) -> None:
    url = f"/v1/jobs/{begun(http, running, spec, {'name': 'uniform'})}/{name}"
    first = http.get(url).raise_for_status()
    assert http.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
