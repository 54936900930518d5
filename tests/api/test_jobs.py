"""Jobs over REST: validated, made once, listed, watched, steered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from espalier.format.package import read_package
from espalier.targets import processor
from models.chain_times import keep_times
from models.deletion import delete_job
from models.job import Job
from models.jobs import request_cancel
from models.offers import Offer
from models.offers import offer as make_offer
from models.outbox import Outbox
from models.trial import Trial
from search.cost.staircase import Probe
from search.graph import space_of
from search.records import Inputs
from tests.api.fixtures import MACS, Files, Running, fail, note, publish
from tests.api.test_problems import problem
from tests.cost.test_staircase import blocked
from worker.steps import shared

Spec = dict[str, Any]


def create(http: httpx.Client, spec: Spec, **headers: str) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=spec, headers=headers)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def count(running: Running) -> int:
    with running.service.database.transaction(write=False) as session:
        return session.scalars(select(func.count()).select_from(Job)).one()


# --- validation -----------------------------------------------------------------------------------


def test_widths_that_run_fast_are_answered_where_the_times_are_known(
    http: httpx.Client, running: Running, files: Files, spec: Spec
) -> None:
    """Kernels pad to four channels on the device that is asked for."""
    offer = Offer("onnxruntime", "1.0", processor())
    target = {"device": offer.device.id}
    asked = {**spec, "rounding": {"multiple": "auto"}, "budget": {"macs": "70%"}, "target": target}
    probe = Probe(space_of(read_package(files.package).graph))
    seconds = {name: blocked(chain, 4) for name, chain in probe.chains.items()}
    missing = dict(list(seconds.items())[1:])
    with running.service.database.transaction() as session:
        make_offer(session, [offer])
        keep_times(session, offer.target(threads=1, batch=1).key, missing)
    assert http.post("/v1/jobs/validate", json=asked).json()["widths"] is None
    with running.service.database.transaction() as session:
        keep_times(session, offer.target(threads=1, batch=1).key, seconds)
    widths = http.post("/v1/jobs/validate", json=asked).json()["widths"]["groups"]
    assert [group["widths"] for group in widths] == [[4, 8], [4, 8, 12, 16]]
    batch = {**asked, "target": {**target, "batch": 2}}
    assert http.post("/v1/jobs/validate", json=batch).json()["widths"] is None


def test_a_job_is_validated_without_being_made(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    before = count(running)
    answer = http.post("/v1/jobs/validate", json={**spec, "budget": {"macs": "33%"}})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    smallest = 64 * (9 + 9) + 3
    assert found["budget"] == {
        "macs": {"limit": MACS * 33 // 100, "original": MACS, "smallest": smallest}
    }
    assert found["groups"] == 2
    assert found["without_choice"] == []
    assert [group["widths"][-1] for group in found["widths"]["groups"]] == [8, 16]
    follows = http.post("/v1/jobs/validate", json={**spec, "rounding": {"multiple": "auto"}}).json()
    assert follows["widths"] is None
    assert follows["budget"].keys() == found["budget"].keys()
    assert found["spec"]["rounding"] == {"multiple": 1, "minimum": 1}
    assert count(running) == before


def test_groups_that_the_rounding_leaves_no_choice_are_listed(
    http: httpx.Client, spec: Spec
) -> None:
    asked = {**spec, "budget": {"macs": "60%"}, "rounding": {"multiple": 8}}
    (found,) = http.post("/v1/jobs/validate", json=asked).json()["without_choice"]
    assert found["channels"] == 8
    assert found["reason"].startswith("rounding.multiple 8 takes steps of 8 of them")


@pytest.mark.parametrize("path", ["/v1/jobs/validate", "/v1/jobs"])
@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"network": "net_nothing"}, "not_found", "network"),
        ({"dataset": "data_nothing"}, "not_found", "dataset"),
        ({"budget": {"macs": 100}}, "budget.unreachable", "budget.macs"),
        ({"rounding": {"minimum": 8}}, "budget.unreachable", "budget.macs"),
        ({"evaluation": {"metric": "top5"}}, "dataset.mismatch", "evaluation.metric"),
        ({"evaluation": {"test_fraction": 0.99}}, "dataset.too_small", "evaluation.test_fraction"),
        ({"budget": {"macs": 10**300}}, "request.invalid", "budget.macs"),
        ({"rounding": {"minimum": 10**300}}, "request.invalid", "rounding.minimum"),
        ({"evaluation": {"holdout": 10**300}}, "request.invalid", "evaluation.holdout"),
        ({"evaluation": {"tuning_rate": 1e300}}, "request.invalid", "evaluation.tuning_rate"),
        ({"finetune": {"learning_rate": 1e300}}, "request.invalid", "finetune.learning_rate"),
        ({"finetune": {"weight_decay": 1e300}}, "request.invalid", "finetune.weight_decay"),
        ({"finetune": {"temperature": 1e300}}, "request.invalid", "finetune.temperature"),
        ({"finetune": {"clip_norm": 1e300}}, "request.invalid", "finetune.clip_norm"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    http: httpx.Client, running: Running, spec: Spec, path: str, change: Spec, code: str, field: str
) -> None:
    before = count(running)
    found = problem(http.post(path, json={**spec, **change}), 422, code)
    assert found["errors"][0]["field"] == field
    assert found["errors"][0]["way_out"]
    assert count(running) == before


def test_an_unreachable_budget_says_what_is_reachable(http: httpx.Client, spec: Spec) -> None:
    wanted = {**spec, "budget": {"macs": 100, "params": "90%"}}
    found = problem(http.post("/v1/jobs", json=wanted), 422, "budget.unreachable")
    smallest = found["smallest"]["macs"]
    assert [error["field"] for error in found["errors"]] == ["budget.macs"]
    assert found["errors"][0]["limit"] == f"at least {smallest}"
    for limit, status in ((smallest, 200), (smallest - 1, 422)):
        answer = http.post("/v1/jobs/validate", json={**spec, "budget": {"macs": limit}})
        assert answer.status_code == status


def test_a_dataset_that_does_not_fit_the_network(
    http: httpx.Client, spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import numpy as np

    path = tmp_path_factory.mktemp("data") / "wide.npz"
    np.savez(path, images=np.zeros((200, 9, 9), np.uint8), labels=np.arange(200) % 3)
    dataset = http.post("/v1/datasets", content=path.read_bytes()).json()["id"]
    answer = http.post("/v1/jobs", json={**spec, "dataset": dataset})
    found = problem(answer, 422, "dataset.mismatch")
    assert found["errors"][0]["field"] == "dataset"


# --- creation -------------------------------------------------------------------------------------


def test_a_job_is_made_with_the_message_that_announces_it(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    with running.service.database.transaction(write=False) as session:
        before = session.scalars(select(func.count()).select_from(Outbox)).one()
    answer = http.post("/v1/jobs", json={**spec, "name": "mine"})
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{view['id']}"
    assert (view["state"], view["terminal"], view["progress"]) == ("queued", False, 0.0)
    assert (view["name"], view["trials"], view["best"]) == ("mine", 0, None)
    assert view["spec"]["strategy"] == {"name": "uniform"}
    with running.service.database.transaction(write=False) as session:  # the broker is down
        assert session.scalars(select(func.count()).select_from(Outbox)).one() == before + 1


def test_the_same_key_gives_the_same_job(http: httpx.Client, running: Running, spec: Spec) -> None:
    first = http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "k1"})
    before = count(running)
    again = http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert count(running) == before
    # The defaults written out are the same request.
    for criterion in (None, "l1"):
        spelled = {**spec, "seed": 0, "criterion": criterion, "version": 2}
        assert create(http, spelled, **{"Idempotency-Key": "k1"})["id"] == first.json()["id"]
    for change in ({"seed": 1}, {"version": 1}):
        other = http.post("/v1/jobs", json={**spec, **change}, headers={"Idempotency-Key": "k1"})
        problem(other, 422, "idempotency.mismatch")
    assert count(running) == before


def test_a_job_from_before_there_were_versions_is_shown_as_of_the_first(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = create(http, spec)
    assert job["spec"]["version"] == 2
    with running.service.database.transaction() as session:
        row = session.get_one(Job, job["id"])
        row.spec = {key: value for key, value in row.spec.items() if key != "version"}
    assert http.get(f"/v1/jobs/{job['id']}").json()["spec"] == {**job["spec"], "version": 1}
    with running.service.database.transaction(write=False) as session:  # and it is worked on so
        given = shared(session, job["id"])
    assert Inputs.from_json(given["inputs"]).spec.version == 1


def test_the_same_key_at_the_same_time_gives_one_job(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    before = count(running)
    barrier = threading.Barrier(8)

    def send(_: int) -> httpx.Response:
        barrier.wait()
        return http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "race"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(running) == before + 1


# --- lists ----------------------------------------------------------------------------------------


def test_pages_hold_every_job_once_whatever_is_made_meanwhile(
    http: httpx.Client, spec: Spec
) -> None:
    made = [create(http, {**spec, "name": "paged"})["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params: dict[str, Any] = {"name": "paged", "limit": 2}
        page = http.get("/v1/jobs", params=params | ({"cursor": cursor} if cursor else {})).json()
        seen += [view["id"] for view in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        create(http, {**spec, "name": "paged"})
    assert seen == made[::-1]


def test_filters_hold_together(http: httpx.Client, spec: Spec) -> None:
    kept = create(http, {**spec, "name": "filtered"})["id"]
    gone = create(http, {**spec, "name": "filtered"})["id"]
    random = create(http, {**spec, "name": "filtered", "strategy": {"name": "random"}})["id"]
    http.post(f"/v1/jobs/{gone}/cancel")

    def ids(**filters: str) -> set[str]:
        page = http.get("/v1/jobs", params={"name": "filtered", **filters}).json()
        return {view["id"] for view in page["items"]}

    assert ids() == {kept, gone, random}
    assert ids(state="queued") == {kept, random}
    assert ids(state="canceled") == {gone}
    assert ids(strategy="random") == {random}
    assert ids(network=spec["network"], strategy="uniform", state="queued") == {kept}
    assert ids(network="net_other") == set()


# --- one job --------------------------------------------------------------------------------------


def test_the_best_trial_so_far_is_shown(http: httpx.Client, running: Running, spec: Spec) -> None:
    job = create(http, spec)["id"]
    with running.service.database.transaction() as session:
        for number, score in ((0, 0.5), (1, 0.75), (2, None)):
            session.add(
                Trial(
                    job_id=job,
                    number=number,
                    plan=[4, 8 - number],
                    tuning_steps=0,
                    tags={"iteration": number},
                    score=score,
                    metrics={"top1": score} if score else None,
                    cost={"macs": 1000 * (number + 1)} if score else None,
                    finished_at=1.0 if score else None,
                )
            )
        session.get_one(Job, job).best = 1
    view = http.get(f"/v1/jobs/{job}").json()
    assert view["trials"] == 2
    assert (view["best"]["number"], view["best"]["plan"]) == (1, [4, 7])
    assert view["best"]["metrics"] == {"top1": 0.75}
    first = http.get(f"/v1/jobs/{job}/trials", params={"limit": 2}).json()
    rest = http.get(f"/v1/jobs/{job}/trials", params={"cursor": first["next_cursor"]}).json()
    assert [trial["number"] for trial in first["items"] + rest["items"]] == [0, 1, 2]
    assert [trial["state"] for trial in first["items"] + rest["items"]] == ["done", "done", "open"]
    assert rest["next_cursor"] is None
    http.post(f"/v1/jobs/{job}/cancel")
    ended = http.get(f"/v1/jobs/{job}/trials").json()["items"]
    assert [trial["state"] for trial in ended] == ["done", "done", "dropped"]


def test_an_unchanged_job_is_not_sent_again(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = create(http, spec)["id"]
    tag = http.get(f"/v1/jobs/{job}").headers["etag"]
    same = http.get(f"/v1/jobs/{job}", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    note(running.service, job, done=1)
    changed = http.get(f"/v1/jobs/{job}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_a_long_poll_ends_with_the_change(http: httpx.Client, running: Running, spec: Spec) -> None:
    view = create(http, spec)
    timer = threading.Timer(0.5, note, (running.service, view["id"]))
    timer.start()
    known = {"If-None-Match": f'"{view["version"]}"'}
    answer = http.get(f"/v1/jobs/{view['id']}", params={"wait": 60}, headers=known, timeout=50)
    assert answer.json()["version"] == view["version"] + 1
    timer.join()


def test_a_long_poll_tells_at_once_what_changed_before_it_came(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    view = create(http, spec)
    note(running.service, view["id"])
    answer = http.get(
        f"/v1/jobs/{view['id']}",
        params={"wait": 60},
        headers={"If-None-Match": f'"{view["version"]}"'},
        timeout=50,
    )
    assert answer.json()["version"] == view["version"] + 1


def test_a_long_poll_ends_with_its_time(http: httpx.Client, spec: Spec) -> None:
    view = create(http, spec)
    url = f"/v1/jobs/{view['id']}"
    known = {"If-None-Match": f'"{view["version"]}"'}
    assert http.get(url, params={"wait": 0.3}, headers=known).status_code == 304
    assert http.get(url, params={"wait": 0.3}).json() == view


def test_a_long_poll_never_waits_for_a_job_that_has_ended(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    ended = [create(http, spec)["id"] for _ in range(3)]
    http.post(f"/v1/jobs/{ended[0]}/cancel")
    fail(running.service, ended[1], "work.attempts", "five attempts failed")
    publish(running.service, ended[2], {})
    for job, state in zip(ended, ("canceled", "failed", "succeeded"), strict=True):
        answer = http.get(f"/v1/jobs/{job}", params={"wait": 60}, timeout=50)
        assert (answer.json()["state"], answer.json()["terminal"]) == (state, True)
        again = http.get(
            f"/v1/jobs/{job}",
            params={"wait": 60},
            headers={"If-None-Match": answer.headers["etag"]},
            timeout=50,
        )
        assert again.status_code == 304
    failed = http.get(f"/v1/jobs/{ended[1]}").json()
    assert failed["error"] == {"code": "work.attempts", "message": "five attempts failed"}


def test_many_long_polls_leave_the_service_free(http: httpx.Client, spec: Spec) -> None:
    """More of them than there are worker threads (40)."""
    job = create(http, spec)["id"]
    limits = httpx.Limits(max_connections=60)
    with (
        httpx.Client(base_url=http.base_url, timeout=120, limits=limits) as many,
        ThreadPoolExecutor(50) as pool,
    ):
        waiting = [pool.submit(many.get, f"/v1/jobs/{job}", params={"wait": 60}) for _ in range(50)]
        time.sleep(1)
        assert http.get("/v1/jobs", params={"limit": 1}, timeout=50).is_success
        assert not any(done.done() for done in waiting), "the answer came while they all waited"
        http.post(f"/v1/jobs/{job}/cancel")
        assert {done.result().json()["state"] for done in waiting} == {"canceled"}


# --- steering -------------------------------------------------------------------------------------


def test_pause_resume_and_cancel_may_be_repeated(http: httpx.Client, spec: Spec) -> None:
    job = create(http, spec)["id"]
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled")):
        views = [http.post(f"/v1/jobs/{job}/{action}").json() for _ in range(2)]
        assert [view["state"] for view in views] == [state, state]
        assert views[0]["version"] == views[1]["version"], "repeating it changes nothing"


def test_a_job_is_deleted_once_it_has_ended(http: httpx.Client, spec: Spec) -> None:
    job = create(http, spec)["id"]
    told = problem(http.delete(f"/v1/jobs/{job}"), 409, "job.state")
    assert f"POST /v1/jobs/{job}/cancel" in told["detail"]
    http.post(f"/v1/jobs/{job}/cancel")
    answer = http.delete(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/events", "/trials", "/artifacts"):
        problem(http.get(f"/v1/jobs/{job}{path}"), 404, "not_found")
    problem(http.delete(f"/v1/jobs/{job}"), 404, "not_found")
    assert job not in [item["id"] for item in http.get("/v1/jobs").json()["items"]]


def test_a_long_poll_of_a_deleted_job_ends(
    http: httpx.Client, running: Running, spec: Spec
) -> None:
    job = create(http, spec)["id"]

    def delete() -> None:
        with running.service.database.transaction() as session:
            request_cancel(session, job)
            delete_job(session, job)

    timer = threading.Timer(0.3, delete)
    timer.start()
    problem(http.get(f"/v1/jobs/{job}", params={"wait": 20}), 404, "not_found")
    timer.join()


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_what_has_ended_cannot_be_steered(
    http: httpx.Client, running: Running, spec: Spec, action: str
) -> None:
    job = create(http, spec)["id"]
    publish(running.service, job, {})
    problem(http.post(f"/v1/jobs/{job}/{action}"), 409, "job.state")
    assert http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
