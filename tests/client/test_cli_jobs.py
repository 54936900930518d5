"""The command line on jobs: what it shows of them and does to them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from espalier.cli import console
from espalier.cli.watching import news
from espalier.client import Client
from models.claims import claim_next, hold
from models.job import Job
from models.locks import lock_job
from models.trial import Trial
from tests.api.fixtures import Files, Running, fail, publish
from tests.client.commands import Run, refused, submitted

TIMING = {
    "runtime": "onnxruntime", "version": "1.31.1", "precision": "float32", "threads": 1,
    "batch": 1, "device": {"name": "A processor"}, "clock": "thread", "before_s": 0.002,
    "after_s": 0.0017, "ratio": 0.85, "low": 0.841, "high": 0.86, "unreliable": False,
    "macs_ratio": 0.3827,
}  # fmt: skip


def test_watch_shows_stage_progress_and_the_best_trial(
    run: Run, running: Running, files: Files
) -> None:
    job = submitted(run, files)
    with running.service.database.transaction() as session:
        session.add(
            Trial(
                job_id=job, number=7, plan=[4, 8], tuning_steps=0, tags={}, score=0.875,
                metrics={"top1": 0.875}, cost={"macs": 30000}, finished_at=1.0,
            )
        )  # fmt: skip
        row = session.get_one(Job, job)
        row.best, row.stage, row.fraction = 7, "search", 0.5
        row.summary = {
            "test_accuracy": {"before": 0.9, "after": 0.895},
            "macs": {"before": 78384, "after": 30000},
            "timings": [TIMING, {**TIMING, "batch": 32, "unreliable": True}],
        }

    def work() -> None:
        time.sleep(0.5)
        publish(running.service, job, {"a": b"1"})

    thread = threading.Thread(target=work)
    thread.start()
    result = run("watch", job)
    thread.join()
    assert result.exit_code == 0, result.output
    assert "best: trial 7, top1 87.50 %, 30 k MACs" in result.stdout
    assert "90.00 % ->    89.50 %" in result.stdout
    assert "38.3 %" in result.stdout
    timed = "latency, batch 1             2 ms ->     1.7 ms    85.0 %  (84.1 to 86.0 %)"
    assert f"{timed} at 38.3 % of the MACs\n" in result.stdout
    assert "38.3 % of the MACs, unreliable: the machine was too busy\n" in result.stdout
    assert "a pass in onnxruntime 1.31.1, 1 thread, float32, on A processor;" in result.stdout
    assert f"espalier download {job}" in result.stdout
    shown = run("show", job).stdout
    assert "succeeded, 100%" in shown
    assert "MACs 50%" in shown


def test_jobs_that_finished_before_there_were_timings_show_what_was_measured(
    run: Run, running: Running, files: Files
) -> None:
    job = submitted(run, files)
    with running.service.database.transaction() as session:
        session.get_one(Job, job).summary = {"latency_s": {"before": 0.002, "after": 0.001}}
    publish(running.service, job, {"a": b"1"})
    shown = run("show", job)
    assert shown.exit_code == 0, shown.output
    assert "2 ms ->       1 ms    50.0 %  in PyTorch, batch 1; no interval" in shown.stdout


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_watch_ends_with_an_error_when_the_job_does(
    run: Run, running: Running, files: Files, state: str
) -> None:
    job = submitted(run, files)
    if state == "failed":
        fail(running.service, job, "work.attempts", "five attempts ended without progress")
        refused(run("watch", job), 1, "five attempts ended", "[work.attempts]")
        assert "five attempts" in run("show", job).stdout
    else:
        assert run("cancel", job).stdout == f"job {job} is canceled\n"
        refused(run("watch", job), 1, "canceled")


def test_warnings_are_told_once_and_not_on_standard_output(
    run: Run, running: Running, files: Files
) -> None:
    job = submitted(run, files)
    assert "warning" not in run("show", job).stderr
    with running.service.database.transaction() as session:
        row = lock_job(session, job)
        row.warnings = [{"code": "data.odd", "message": "the labels [look] odd: see to them"}]
    publish(running.service, job, {"a": b"1"})
    for command in ("watch", "show"):
        result = run(command, job)
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
        assert lines == ["warning: the labels [look] odd: see to them"]
    with Client(running.url) as client:
        (warning,) = client.job(job)["warnings"]
    assert warning["code"] == "data.odd"


def test_a_job_says_what_it_waits_for(run: Run, running: Running, files: Files) -> None:
    """In its view, once in its events, and on the command line; as soon as it is held."""
    with Client(running.url) as client:
        for waiting in client.jobs(state="queued"):
            client.cancel(waiting["id"])
        job = submitted(run, files)
        before = client.job(job)
        assert before["waiting_for"] is None
        for _ in range(2):
            with running.service.database.transaction() as session:
                claim = claim_next(session, "test", 30.0)
                assert claim is not None
                assert claim.job_id == job
                hold(session, claim, waiting_for="disk: [full]", first_s=0.0, longest_s=0.0)
        view = client.job(job)
        assert view["waiting_for"] == "disk: [full]"
        assert view["version"] > before["version"]
        (told,) = [item for item in client.events(job) if item["kind"] == "waiting"]
        assert told["data"] == {"kind": "prepare", "for": "disk: [full]"}
        assert "waits for disk: [full]" in run("show", job).stdout
        assert news(view) == "waits for disk: [full]"
        client.cancel(job)
        assert client.job(job)["waiting_for"] is None


def test_what_has_ended_is_not_pausing(run: Run, running: Running, files: Files) -> None:
    job = submitted(run, files)
    with running.service.database.transaction() as session:
        lock_job(session, job).pause_requested_at = 1.0
    assert "(pausing)" in run("show", job).stdout
    run("cancel", job)
    assert "(pausing)" not in run("show", job).stdout


def test_a_job_is_deleted_once_it_has_ended(run: Run, files: Files) -> None:
    job = submitted(run, files)
    refused(run("delete", job), 1, "cancel it first")
    run("cancel", job)
    assert run("delete", job).stdout == f"job {job} is deleted\n"
    refused(run("show", job), 1, f"there is no job '{job}'")


def test_jobs_are_listed_whole(run: Run, files: Files) -> None:
    job = submitted(run, files, "--name", "listed")
    result = run("jobs", "--name", "listed")
    (line,) = [line for line in result.stdout.splitlines() if job in line]
    for words in ("listed", "queued", "allocate", "MACs 50%", "ago"):
        assert words in line
    assert [
        view["id"] for view in json.loads(run("jobs", "--name", "listed", "--json").stdout)
    ] == [job]
    assert run("jobs", "--name", "nobody").stdout == ""
    dataset = json.loads(run("show", job, "--json").stdout)["spec"]["dataset"]
    assert job in run("jobs", "--dataset", dataset).stdout
    assert run("jobs", "--dataset", "data_other").stdout == ""


def test_a_narrow_terminal_cuts_no_id(
    run: Run, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(run, files, "--name", "named-at-length-" * 5)
    monkeypatch.setattr(console.out, "width", 80)
    for command in ("jobs", "networks", "datasets"):
        assert "\N{HORIZONTAL ELLIPSIS}" not in run(command).stdout
    (line,) = [line for line in run("jobs").stdout.splitlines() if job in line]
    for words in ("named-at", "queued", "allocate", "MACs 50%", "ago"):
        assert words in line


def test_pause_and_resume(run: Run, files: Files) -> None:
    job = submitted(run, files)
    assert run("pause", job).stdout == f"job {job} is paused\n"
    assert run("resume", job).stdout == f"job {job} is queued\n"


def test_download(run: Run, running: Running, files: Files, tmp_path: Path) -> None:
    job = submitted(run, files)
    refused(run("download", job, "-o", tmp_path), 1, f"espalier watch {job}")
    publish(running.service, job, {"plan.json": b"{}", "network.onnx": b"x" * 2048})
    result = run("download", job, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plan.json").read_bytes() == b"{}"
    assert "2.0 KiB" in result.stdout


@pytest.mark.parametrize(
    "command", ["watch", "show", "download", "cancel", "pause", "resume", "delete"]
)
def test_a_job_that_is_not_there(run: Run, command: str) -> None:
    refused(run(command, "job_x"), 1, "there is no job 'job_x'")


def test_a_service_that_is_not_there(run: Run) -> None:
    refused(run("jobs", "--url", "http://127.0.0.1:9"), 1, "espalier serve")


def test_what_widths_follow_from_is_shown(run: Run, running: Running, files: Files) -> None:
    job = submitted(run, files)
    assert "widths" not in run("show", job).stdout, "not prepared yet, or by an earlier version"
    target = {"runtime": "onnxruntime", "version": "9.9", "threads": 1, "batch": 1,
              "device": {"name": "[a] chip"}}  # fmt: skip
    facts = {"target": target, "chains": 30, "measured": 12, "finer": [], "needed": ["conv[1]"]}
    with running.service.database.transaction() as session:
        lock_job(session, job).widths = facts
    shown = " ".join(run("show", job).stdout.split())
    assert "widths those fast in onnxruntime 9.9, 1 thread, batch 1, on [a] chip" in shown
    assert "12 chains of layers timed, 18 taken over" in shown
    assert "conv[1]: may keep slow widths too" in shown
    with Client(running.url) as client:
        assert client.job(job)["widths"] == facts
