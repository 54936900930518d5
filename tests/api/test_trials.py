"""The networks of a job's trials: what is kept comes as it was scored, the rest is refused."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from api.dependencies import Service
from espalier.client import Client
from espalier.format.build import load
from espalier.format.package import read_package
from models.blobs import key_of
from models.errors import BlobCorrupt
from models.locks import lock_job
from models.references import collect, release_job, retain
from models.trial import Trial
from search.context import Context, Problem
from search.evaluation.checkpoint import restore
from search.files import FolderFiles
from search.pruning import apply
from search.records import Inputs, TrialResult
from search.space import Plan
from search.spec import JobSpec
from search.steps import evaluate, prepare
from search.strategies.base import Proposal
from tests.api.fixtures import Files, Running

Spec = dict[str, Any]
PLAN: Plan = (5, 9)


@pytest.fixture
def files_of(tmp_path: Path, files: Files) -> tuple[FolderFiles, str, str]:
    store = FolderFiles(tmp_path / "files")
    return store, store.put(files.package), store.put(files.dataset)


@pytest.fixture
def measured(
    http: httpx.Client, running: Running, spec: Spec, files_of: tuple[FolderFiles, str, str]
) -> tuple[str, TrialResult, Context]:
    """A job with a tuned trial 0 that is its best, and a plain trial 1."""
    store, network, dataset = files_of
    answer = http.post("/v1/jobs", json=spec).raise_for_status().json()
    inputs = Inputs(JobSpec.model_validate(answer["spec"]), network, dataset)
    prepared = prepare(inputs, store)
    results = [
        evaluate(inputs, prepared, Proposal(number, PLAN, tuning_steps=steps), None, store)
        for number, steps in enumerate((3, 0))
    ]
    service = running.service
    with service.database.transaction() as session:
        job = lock_job(session, answer["id"])
        for result in results:
            _record(service, session, job.id, result, store)
        job.best = 0
    return answer["id"], results[0], Context(inputs, store)


def _record(
    service: Service,
    session: Any,
    job: str,
    result: TrialResult,
    store: FolderFiles,
    solve: str | None = None,
) -> None:
    weights = None
    if result.weights is not None:
        stored = service.blobs.put_file(store.path(result.weights))
        retain(session, stored.digest, stored.size_bytes)
        weights = stored.digest
    outcome = result.outcome
    session.add(
        Trial(
            job_id=job,
            number=outcome.number,
            plan=list(outcome.plan),
            parent=None,
            tuning_steps=3 if weights else 0,
            tags={},
            score=outcome.score,
            metrics=dict(outcome.metrics),
            cost=dict(outcome.cost),
            kept=[list(channels) for channels in result.kept],
            solve=solve,
            weights=weights,
            told=True,
            finished_at=0.0,
        )
    )
    session.flush()


def test_the_package_is_the_network_that_was_scored(
    running: Running, measured: tuple[str, TrialResult, Context], tmp_path: Path
) -> None:
    job, result, context = measured
    with Client(running.url) as client:
        path = client.download_trial(job, 0, tmp_path)
        kept = {trial["number"]: trial["kept"] for trial in client.trials(job)}
    assert kept == {0: True, 1: True}
    network = load(path)
    assert isinstance(network.get_submodule("first"), torch.nn.Conv2d)
    assert network.get_submodule("first").weight.shape == (PLAN[0], 1, 3, 3)
    assert result.outcome.cost["macs"] == 64 * 9 * (PLAN[0] + PLAN[0] * PLAN[1]) + PLAN[1] * 3
    assert Problem(read_package(path).graph).cost.full == result.outcome.cost
    assert result.weights is not None
    state, _ = restore(context._files.path(result.weights))
    scored = context.evaluator.network(result.kept, (result.kept, state))
    inputs = torch.from_numpy(np.random.default_rng(1).random((16, 1, 8, 8), np.float32))
    with torch.inference_mode():
        assert torch.equal(network(inputs), scored(inputs))
    facts = read_package(path).manifest.extra["trial"]
    assert isinstance(facts, dict)
    assert (facts["job"], facts["number"], facts["plan"]) == (job, 0, list(PLAN))
    assert (facts["score"], facts["finetuned"]) == (result.outcome.score, False)


def test_the_same_request_gives_the_same_bytes(
    http: httpx.Client, running: Running, measured: tuple[str, TrialResult, Context]
) -> None:
    url = f"/v1/jobs/{measured[0]}/trials/0/network"
    first = http.get(url)
    assert first.status_code == 200
    assert int(first.headers["content-length"]) == len(first.content)
    digest = hashlib.sha256(first.content).digest()
    assert first.headers["etag"] == f'"{digest.hex()}"'
    assert first.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    running.service.analyses._known.clear()  # as in a process that has just started
    assert http.get(url).content == first.content
    again = http.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_an_untuned_trial_is_the_original_after_its_cut(
    running: Running, measured: tuple[str, TrialResult, Context], tmp_path: Path
) -> None:
    job, result, context = measured
    with Client(running.url) as client:
        path = client.download_trial(job, 1, tmp_path)
    cut = apply(context.network, context.problem.space, result.kept).state_dict()
    found = load(path).state_dict()
    assert found.keys() == cut.keys()
    for name, tensor in cut.items():
        assert torch.equal(found[name], tensor)
    facts = read_package(path).manifest.extra["trial"]
    assert isinstance(facts, dict)
    assert (facts["number"], facts["weights"]) == (1, "original")


@pytest.mark.parametrize(("reconstruction", "word"), [("parallel", "solved"), ("none", "scored")])
def test_a_package_says_whether_anything_was_solved_for(
    http: httpx.Client,
    running: Running,
    spec: Spec,
    files_of: tuple[FolderFiles, str, str],
    tmp_path: Path,
    reconstruction: str,
    word: str,
) -> None:
    store, network, dataset = files_of
    evaluation = {"calibration": 20, "holdout": 50, "reconstruction": reconstruction}
    answer = http.post("/v1/jobs", json={**spec, "evaluation": evaluation}).json()
    inputs = Inputs(JobSpec.model_validate(answer["spec"]), network, dataset)
    proposal = Proposal(0, PLAN, solve="full")
    result = evaluate(inputs, prepare(inputs, store), proposal, None, store)
    with running.service.database.transaction() as session:
        _record(running.service, session, answer["id"], result, store, proposal.solve)
    with Client(running.url) as client:
        path = client.download_trial(answer["id"], 0, tmp_path)
    facts = read_package(path).manifest.extra["trial"]
    assert isinstance(facts, dict)
    assert facts["weights"] == word


def test_what_is_not_kept_says_what_is(
    http: httpx.Client, running: Running, measured: tuple[str, TrialResult, Context]
) -> None:
    job = measured[0]
    with running.service.database.transaction() as session:
        for number, score, finished in ((2, 0.5, 0.0), (3, None, 0.0), (4, None, None)):
            session.add(
                Trial(
                    job_id=job, number=number, plan=list(PLAN), tuning_steps=3, tags={},
                    score=score, finished_at=finished,
                )
            )  # fmt: skip
    for number, why in ((2, "its weights are gone"), (3, "failed"), (4, "not measured yet")):
        answer = http.get(f"/v1/jobs/{job}/trials/{number}/network")
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["kept"]) == (
            404, "trial.not_kept", [0, 1],
        )  # fmt: skip
        assert why in problem["detail"]
    http.post(f"/v1/jobs/{job}/cancel")
    told = http.get(f"/v1/jobs/{job}/trials/4/network").json()["detail"]
    assert "was not measured before its job ended as canceled" in told
    assert told.endswith("(kept: 0, 1)")
    missing = http.get(f"/v1/jobs/{job}/trials/7/network").json()
    assert missing["code"] == "not_found"
    assert "no trial 7" in missing["detail"]


def test_many_kept_trials_are_counted_not_listed(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = http.post("/v1/jobs", json=spec).raise_for_status().json()["id"]
    with running.service.database.transaction() as session:
        for number in range(100):
            session.add(
                Trial(
                    job_id=job, number=number, plan=list(PLAN), tuning_steps=0, tags={},
                    score=0.5 if number else None, finished_at=0.0,
                )
            )  # fmt: skip
    told = http.get(f"/v1/jobs/{job}/trials/0/network").json()
    assert told["detail"].endswith("(kept: 1, 2, 3, 4, 5 and 94 more)")
    assert told["kept"] == list(range(1, 100))


def test_a_family_outlives_its_job_and_the_collection(
    http: httpx.Client, running: Running, measured: tuple[str, TrialResult, Context]
) -> None:
    job, service = measured[0], running.service
    with service.database.transaction() as session:
        release_job(session, lock_job(session, job))
    collect(service.database, service.blobs, grace_s=0)
    assert http.get(f"/v1/jobs/{job}/trials/0/network").status_code == 200


def test_damaged_weights_are_never_sent(
    http: httpx.Client, running: Running, measured: tuple[str, TrialResult, Context]
) -> None:
    job, result, _ = measured
    assert result.weights is not None
    folder = running.service.blobs._folder
    assert folder is not None
    path = folder / key_of(result.weights)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    answer = http.get(f"/v1/jobs/{job}/trials/0/network")
    assert (answer.status_code, answer.json()["code"]) == (500, BlobCorrupt.code)
