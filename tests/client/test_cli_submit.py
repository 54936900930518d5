"""The command line submits jobs, or says why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from espalier.cli.widths import widths_text
from espalier.client import Client
from tests.api.fixtures import Files, Running, leave_times
from tests.client.commands import SET, Run, refused, submitted
from tests.cost.test_staircase import blocked


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


def test_a_dry_run_tells_widths_where_they_are_known(
    run: Run, running: Running, files: Files
) -> None:
    asked = ("submit", files.package, "--data", files.dataset, *SET, "--dry-run")
    asked += ("--budget", "macs=50%", "--set", "target.batch=3")
    follows = run(*asked).stdout
    assert "follows from a measurement" in follows
    leave_times(running.service, files.package, lambda chain: blocked(chain, 4), batch=3)
    result = run(*asked)
    assert result.exit_code == 0, result.output
    assert "follows from a measurement" not in result.stdout
    shown = result.stdout.split()
    assert " ".join(shown[shown.index("first") :]).startswith("first 8 4, 8 second 16 4, 8 ... 16")
    assert "onnxruntime 1.31.1, 1 thread, batch 3, on a processor" in " ".join(shown)


@pytest.mark.parametrize(
    ("widths", "text"),
    [
        ((8, 16, 24, 32), "8, 16 ... 32"),
        ((64,), "64"),
        ((1, 2, 3, 8), "1, 2, 3, 8"),
        ((3, 4, 8, 12, 16, 20, 21), "3, 4, 8 ... 20, 21"),
    ],
)
def test_widths_in_equal_steps_are_told_shortly(widths: tuple[int, ...], text: str) -> None:
    assert widths_text(widths) == text


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
