"""The command line: its output, its one-line errors, its exit codes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from espalier.cli import app
from espalier.cli.watching import news
from espalier.client import Client
from espalier.format.lift import pack
from models.claims import claim_next, hold
from models.job import Job
from models.locks import lock_job
from models.trial import Trial
from tests.api.fixtures import Files, Running, fail, publish

Run = Callable[..., Result]
SET = ["--set", "evaluation.holdout=50", "--set", "evaluation.calibration=20"]


@pytest.fixture
def run(running: Running, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ESPALIER_URL", running.url)
    return lambda *arguments: CliRunner().invoke(app, [str(item) for item in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One line that says what is wrong, the exit code, and no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


def submitted(run: Run, files: Files, *more: str) -> str:
    result = run(
        "submit", files.package, "--data", files.dataset, "--budget", "macs=50%", *SET, *more
    )
    assert result.exit_code == 0, result.output
    # The service logs in this process that it has no broker.
    (job,) = [line for line in result.stdout.splitlines() if "broker" not in line]
    assert job.startswith("job_"), "standard output is the id alone, for scripts"
    return job


def test_the_version_is_that_of_the_package_and_of_the_service(run: Run, running: Running) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, version("espalier"))
    document = httpx.get(f"{running.url}/openapi.json").json()
    assert document["info"]["version"] == result.stdout.strip()


def test_submit_says_what_was_asked_for(run: Run, running: Running, files: Files) -> None:
    job = submitted(
        run, files, "--budget", "params=1_000", "--strategy", "random", "--name", "numbers",
        "--set", "strategy.trials=3", "--set", "finetune.clip_norm=null",
        "--set", "criterion=l2",
    )  # fmt: skip
    with Client(running.url) as client:
        spec = client.job(job)["spec"]
        assert client.network(spec["network"])["name"] == "tiny"
    assert (spec["budget"]["macs"], spec["budget"]["params"]) == ("50%", 1000)
    assert spec["strategy"] == {"name": "random", "trials": 3}
    assert (spec["criterion"], spec["finetune"]["clip_norm"], spec["name"]) == (
        "l2",
        None,
        "numbers",
    )
    again = run("submit", spec["network"], "--data", spec["dataset"], "--budget", "macs=50%", *SET)
    assert again.exit_code == 0, "ids are as good as files"


def test_limits_may_come_both_ways(run: Run, running: Running, files: Files) -> None:
    job = submitted(run, files, "--set", "budget.params=90%", "--set", "budget.weight_bytes=9000")
    with Client(running.url) as client:
        budget = client.job(job)["spec"]["budget"]
    assert {name: limit for name, limit in budget.items() if limit is not None} == {
        "macs": "50%", "params": "90%", "weight_bytes": 9000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--budget", "macs"], 2, ["NAME=VALUE"]),
        (["--budget", "speed=2"], 2, ["macs, params"]),
        (["--budget", "macs=half"], 2, ["50%"]),
        (["--budget", "macs=150%"], 2, ["up to 100%"]),
        (["--budget", "macs=0"], 2, ["at least 1"]),
        (["--budget", "macs=50%", "--budget", "macs=30%"], 2, ["macs=30%", "each cost once"]),
        (["--budget", "macs=50%", "--set", "budget.macs=30%"], 2, ["budget.macs", "once"]),
        (["--budget", "macs=50%", "--set", "budget=30%"], 2, ["--set budget.macs=50%"]),
        (["--budget", "macs=50%", "--set", "seed=1", "--set", "seed=2"], 2, ["seed was set"]),
        (["--budget", "macs=50%", "--set", "network=net_1"], 2, ["takes the network by itself"]),
        (["--budget", "macs=50%", "--set", "dataset=data_1"], 2, ["takes the dataset by itself"]),
        (["--budget", "macs=1", "--set", "finetune.clip_norm=Infinity"], 2, ["clip_norm", "null"]),
        (["--budget", "macs=1", "--set", "finetune.clip_norm=1e999"], 2, ["clip_norm", "null"]),
        (["--budget", "macs=1", "--set", "finetune.learning_rate=NaN"], 2, ["learning_rate"]),
        (["--budget", "macs=50%", "--watch", "--dry-run"], 2, ["leave one"]),
        (["--budget", "macs=10"], 1, ["cannot be met", "smallest reachable"]),
        (["--budget", "macs=50%", "--set", "finetune.epochs=-1"], 1, ["finetune.epochs"]),
        (["--budget", "macs=50%", "--strategy", "magic"], 1, ["uniform"]),
    ],
)
def test_what_cannot_be_submitted(
    run: Run, files: Files, arguments: list[str], code: int, words: list[str]
) -> None:
    result = run("submit", files.package, "--data", files.dataset, *SET, *arguments)
    refused(result, code, *words)


def test_a_missing_file_is_told_before_anything_is_sent(
    run: Run, running: Running, files: Files
) -> None:
    with Client(running.url) as client:
        before = len(list(client.networks()))
        result = run("submit", files.package, "--data", "nowhere.npz", "--budget", "macs=50%")
        refused(result, 2, "nowhere.npz")
        assert len(list(client.networks())) == before


def test_describe_of_a_file_needs_no_service(
    run: Run, running: Running, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(running.url) as client:
        network, dataset = (
            client.upload_network(files.package),
            client.upload_dataset(files.dataset),
        )
    told = {view["id"]: run("describe", view["id"]).stdout for view in (network, dataset)}
    (tmp_path / "search.py").write_text("raise SystemExit('this is not ours')")
    monkeypatch.chdir(tmp_path)  # a user's folder, with modules of its own
    monkeypatch.setenv("ESPALIER_URL", "http://127.0.0.1:9")
    for path, view in ((files.package, network), (files.dataset, dataset)):
        found = json.loads(run("describe", path, "--json").stdout)
        assert found == {name: view[name] for name in ("name", "description", "size_bytes")}
        shown = run("describe", path).stdout
        assert shown == told[view["id"]].replace(f"  {view['id']}", "")
    wrong = tmp_path / "wrong.espalier"
    wrong.write_bytes(b"not a package" * 100)
    refused(run("describe", wrong), 1, "wrong.espalier", "no zip file", "espalier.pack")
    refused(run("describe", network["id"]), 1, "no answer from http://127.0.0.1:9")


def test_describe_shows_what_can_be_pruned_and_what_not(run: Run, files: Files) -> None:
    result = run("describe", files.package)
    assert result.exit_code == 0, result.output
    for words in ("first", "second", "78.4 k", "classifier", "the network's output"):
        assert words in result.stdout
    view = json.loads(run("describe", files.package, "--json").stdout)
    assert view["description"]["cost"]["macs"] == 78384


def test_describe_says_that_a_network_yields_probabilities(run: Run, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(dim=1))
    path = pack(network.eval(), torch.zeros(2, 6), tmp_path / "ended.espalier")
    result = run("describe", path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("outputs: ")]
    assert line.endswith("3 float32: probabilities (softmax); jobs go by what feeds it")


def test_what_was_uploaded_is_listed_and_described(
    run: Run, running: Running, files: Files
) -> None:
    with Client(running.url) as client:
        network = client.upload_network(files.package)["id"]
        dataset = client.upload_dataset(files.dataset)["id"]
    (line,) = [line for line in run("networks").stdout.splitlines() if network in line]
    for words in ("tiny ", "78.4 k", "ago"):
        assert words in line
    (line,) = [line for line in run("datasets").stdout.splitlines() if dataset in line]
    for words in ("tiny.npz", "8x8 uint8", "200 training", "ago"):
        assert words in line
    assert dataset in [view["id"] for view in json.loads(run("datasets", "--json").stdout)]
    shown = run("describe", dataset).stdout
    for words in ("8x8 uint8", "200 training", "labels: 0 to 2"):
        assert words in shown


def test_a_dry_run_starts_nothing(run: Run, running: Running, files: Files) -> None:
    with Client(running.url) as client:
        before = len(list(client.jobs()))
        asked = ("submit", files.package, "--data", files.dataset, *SET, "--dry-run")
        result = run(*asked, "--budget", "macs=50%")
        assert result.exit_code == 0, result.output
        for words in ("39.2 k", "78.4 k", "allocate on 2 channel groups", "nothing was started"):
            assert words in result.stdout
        assert "one width only" not in result.stdout
        result = run(*asked, "--budget", "macs=60%", "--set", "rounding.multiple=8")
        assert "one width only" in result.stdout
        assert "takes steps of 8 of them" in result.stdout
        refused(run(*asked, "--budget", "macs=10"), 1, "cannot be met")
        assert len(list(client.jobs())) == before


@pytest.mark.parametrize("command", ["submit", "sensitivity"])
def test_wrong_fields_are_told_before_anything_is_sent(
    run: Run, running: Running, files: Files, tmp_path: Path, command: str
) -> None:
    fresh = tmp_path / f"{command}.espalier"
    fresh.write_bytes(files.package.read_bytes())
    data = [files.dataset] if command == "sensitivity" else ["--data", files.dataset]
    limits = [] if command == "sensitivity" else ["--budget", "macs=50%"]
    result = run(command, fresh, *data, *limits, "--set", "finetune.epochs=-1")
    refused(result, 1, "finetune.epochs", "at least 0")
    with Client(running.url) as client:
        assert fresh.name not in [view["name"] for view in client.networks()]


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
            "latency_s": {"before": 0.002, "after": 0.001},
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
    assert f"espalier download {job}" in result.stdout
    shown = run("show", job).stdout
    assert "succeeded, 100%" in shown
    assert "MACs 50%" in shown


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


@pytest.mark.parametrize(
    "command", ["watch", "show", "download", "cancel", "pause", "resume", "delete"]
)
def test_a_job_that_is_not_there(run: Run, command: str) -> None:
    refused(run(command, "job_x"), 1, "there is no job 'job_x'")


def test_a_service_that_is_not_there(run: Run) -> None:
    refused(run("jobs", "--url", "http://127.0.0.1:9"), 1, "espalier serve")


_SOURCE = """
import torch

def trained():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), \\
        torch.zeros(1, 4)

def no_example():
    return torch.nn.Linear(4, 2)

def broken():
    raise ValueError("no weights here")

class Squeezed(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()  # the line

def squeezed():
    return Squeezed(4, 2), torch.zeros(1, 4)
"""


def test_pack_runs_the_users_own_function(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "packed_by_test.py"
    source.write_text(_SOURCE)
    target = tmp_path / "net.espalier"
    options: list[Any] = [
        "--classes",
        "cat, dog",
        "--scale",
        "0.5",
        "--mean",
        "1",
        "--name",
        "pets",
    ]
    result = run("pack", f"{source}:squeezed", "-o", target)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "warning: operator aten.squeeze.default" in said
    assert "# the line" in said
    described = " ".join(run("describe", target).stdout.split())
    assert "note: operator aten.squeeze.default" in described
    assert "# the line" not in described
    result = run("pack", f"{source}:trained", "-o", target, *options)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    view = json.loads(run("describe", target, "--json").stdout)
    assert view["description"]["classes"] == ["cat", "dog"]
    assert view["description"]["cost"]["macs"] == 4 * 8 + 8 * 2
    refused(run("pack", f"{source}:broken", "-o", target), 1, "ValueError", ":12", "no weights")
    refused(run("pack", f"{source}:no_example", "-o", target), 2, "(network, example)")
    refused(run("pack", f"{source}:missing", "-o", target), 2, "it has trained, no_example")
    refused(run("pack", f"{tmp_path}/none.py:f", "-o", target), 2, "none.py")
    pack = ("pack", f"{source}:trained", "-o", tmp_path / "none.espalier")
    refused(run(*pack, "--std", "0"), 1, "preprocessing: ", "std must be positive")
    refused(run(*pack, "--scale", "nan"), 1, "preprocessing: scale: ", "finite")
    refused(run(*pack, "--name", "n" * 300), 1, "name: ", "at most 200")
    assert not (tmp_path / "none.espalier").exists()
    refused(run("pack", source, "-o", target), 2, "FILE.py:function")
    refused(run("pack", f"{source}:trained", "-o", tmp_path / "no" / "x"), 2, "no folder")
