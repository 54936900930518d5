from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from espalier.format.build import load
from espalier.format.package import read_package
from search.export import VerificationFailed, verify, write_results
from search.export.plan import plan_facts
from search.export.verify import _NAMES, VerificationDied, main
from search.export.write import MEDIA_TYPES, SCHEMA_VERSION
from tests.evaluation.digits import digits
from tests.export.finished import changed, finished, written
from tests.export.metrics_page import KINDS, OF_A_SEARCH, PAGE, SELDOM, documented, fields
from worker.child import _failure


def read(name: str) -> Any:
    (file,) = (file for file in written().files if file.name == name)
    return json.loads(file.path.read_text())


def path_of(name: str) -> Path:
    (file,) = (file for file in written().files if file.name == name)
    return file.path


def test_every_file_is_there_and_json_has_no_strange_numbers() -> None:
    assert [file.name for file in written().files] == list(MEDIA_TYPES)
    assert all(file.path.stat().st_size for file in written().files)
    for name in ("plan.json", "metrics.json", "trials.json"):
        assert "NaN" not in path_of(name).read_text()


def test_the_package_is_the_network_that_was_in_memory() -> None:
    result = finished()
    loaded = load(path_of("network.espalier"))
    expected = result.network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    manifest = read_package(path_of("network.espalier")).manifest
    assert manifest.preprocessing == digits().manifest.preprocessing
    assert manifest.classes == digits().manifest.classes
    assert manifest.extra["pruned"] == {"plan": list(result.plan), "strategy": "netadapt"}


def test_the_plan_says_what_stayed_where() -> None:
    result = finished()
    facts = read("plan.json")
    assert facts == plan_facts(result.space, result.kept, ()) | {
        "choices": [list(options) for options in result.choices]
    }
    original = digits().network.state_dict()
    # Taking the indices of the file from the original gives the shapes of the pruned network.
    pruned = load(path_of("network.espalier")).state_dict()
    for name, tensor in original.items():
        layer, _, local = name.rpartition(".")
        for dim, indices in facts["layers"].get(layer, {}).get(local, {}).items():
            tensor = tensor.index_select(int(dim), torch.tensor(indices))
        assert tensor.shape == pruned[name].shape
    assert [len(group["kept"]) for group in facts["groups"]] == list(result.plan)


def test_the_summary_agrees_with_an_independent_measurement() -> None:
    summary, made = written().summary, finished().evaluator
    network = load(path_of("network.espalier"))
    images, labels = made.splits.test, digits().dataset.train.labels
    assert labels is not None
    right = {}
    for side, net in (("before", digits().network), ("after", network)):
        with torch.no_grad():
            right[side] = (net(made.feed.inputs(images)).argmax(1).numpy() == labels[images]).mean()
    assert summary["test_accuracy"] == pytest.approx(right)
    parameters = sum(value.numel() for value in network.parameters())
    assert summary["params"] == {
        "before": sum(value.numel() for value in digits().network.parameters()),
        "after": parameters,
    }
    macs = 0

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += module.weight[0].numel() * output[0].numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, 8, 8))
    assert summary["macs"]["after"] == macs <= finished().limits["macs"]
    assert summary["verified"] is True
    assert (summary["trials"], summary["winner"]) == (12, finished().winner)


def test_metrics_and_trials_hold_the_history() -> None:
    metrics, trials = read("metrics.json"), read("trials.json")
    assert metrics["test"]["onnx"]["top1"] == metrics["test"]["after"]["top1"]
    assert metrics["holdout"]["original"] == finished().evaluator.baseline()
    assert metrics["holdout"]["final"]["top1"] >= metrics["holdout"]["untuned"]["top1"]
    assert metrics["equality"]["package"]["max_difference"] == 0.0
    assert [entry["epoch"] for entry in metrics["finetuning"]] == [0, 1, 2]
    assert [trial["number"] for trial in trials["trials"]] == list(range(12))
    assert trials["trials"][3]["plan"] == list(finished().trials[3].proposal.plan)


def test_the_page_documents_every_field_of_metrics_and_none_that_is_not_there() -> None:
    page = documented()
    assert sorted(page) == sorted(set(page))
    assert {*fields(read("metrics.json")), *SELDOM, *OF_A_SEARCH} == set(page)
    assert all(f"`{name}`" in PAGE for name in KINDS)
    assert f"| `schema_version` | {SCHEMA_VERSION};" in PAGE


def test_costs_that_are_not_the_plans_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = read("metrics.json")
    monkeypatch.setattr("search.export.write.verify", lambda **_: measured)
    monkeypatch.setattr("search.export.write.export_onnx", lambda *_: None)
    lying = changed(after={**finished().after, "macs": 1})
    tight = changed(limits={"macs": finished().after["macs"] - 1})
    for result, words in ((lying, "reloaded network costs"), (tight, "above the budget")):
        with pytest.raises(VerificationFailed, match=words):
            write_results(result, tmp_path, original=digits().package, dataset=digits().data)


# --- the fresh process --------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    spec = tmp_path / "spec.json"
    spec.write_text(finished().spec.model_dump_json())
    made = finished().evaluator
    with torch.no_grad():
        logits = finished().network(made.feed.inputs(made.splits.holdout[:32]))
    save_file({"logits": logits}, tmp_path / "reference")
    return {
        "package": path_of("network.espalier"),
        "onnx": path_of("network.onnx"),
        "original": digits().package,
        "original_onnx": path_of("network.onnx"),
        "dataset": digits().data,
        "spec": spec,
        "reference": tmp_path / "reference",
    }


def test_other_outputs_than_in_memory_are_refused(files: dict[str, Any]) -> None:
    save_file({"logits": torch.zeros(32, 10)}, files["reference"])
    with pytest.raises(VerificationFailed, match="reloaded package differs"):
        verify(**files)


def test_a_flipped_bit_is_refused_with_an_error_as_json(
    files: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    content = bytearray(files["package"].read_bytes())
    content[len(content) // 2] ^= 1
    files["package"] = tmp_path / "flipped"
    files["package"].write_bytes(content)
    assert main([f"--{name}={path}" for name, path in files.items()]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["verified"] is False
    assert answer["error"].startswith("format.")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exec sleep 60", "took longer than 0.2 s"),
        ("echo 'Traceback' >&2; echo 'KeyError: x' >&2; exit 1", "status 1: KeyError: x$"),
        ("kill -9 $$", "status -9: it was killed, or ran out of memory"),
    ],
)
def test_a_process_that_hangs_or_dies_is_told_in_words_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    here = dict.fromkeys(_NAMES, tmp_path)
    with pytest.raises(VerificationDied, match=words) as died:
        verify(**here, timeout_s=0.2 if "sleep" in script else 60)
    assert _failure(died.value)["permanent"] is False


def test_a_file_that_is_gone_is_no_verdict(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    files["dataset"] = tmp_path / "gone"
    with pytest.raises(FileNotFoundError):
        main([f"--{name}={path}" for name, path in files.items()])


def test_the_process_ends_with_its_parent(files: dict[str, Any]) -> None:
    theirs, ours = os.pipe()
    command = [sys.executable, "-m", "search.export.verify", f"--lifeline={theirs}"]
    command += [f"--{name}={path}" for name, path in files.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(theirs,)) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(60) == 1
        assert process.stdout is not None
        assert process.stdout.read() == b""
