"""Convolutions and gradients are right on this machine, and what happens where they are not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import fx, nn

from search.evaluation import guard
from search.evaluation.convolution_cases import LAYOUTS, Case, Layout, cases
from search.evaluation.finetune import FineTuner
from search.evaluation.guard import UnsoundTorch, require_sound
from search.evaluation.soundness import findings
from search.evaluation.training import Training
from search.spec import FineTuneSpec
from tests.evaluation.digits import evaluator, job, kept
from tests.evaluation.unsound import KILLS, WRONG

UNSOUND = "tests.evaluation.unsound"
# Processors without AVX-512 are most often hit, and others can be made to act as one of them.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize(
    ("layout", "threads", "environment"),
    [("channels_last", 1, AVX2), ("channels_last", 2, {}), ("contiguous", 1, AVX2)],
)
def test_the_forms_in_use_are_right(
    layout: Layout, threads: int, environment: dict[str, str]
) -> None:
    assert list(findings(layout, threads, "test", environment=environment)) == []


def test_the_sweep_has_what_is_known_to_be_wrong_upstream() -> None:
    """oneDNN's issue 6035: few channels, kernel 1, stride 2, and many positions with AVX-512."""
    for extent in ("full", "guard"):
        sweep = set(cases("channels_last", extent))
        for channels in range(1, 10):
            assert Case("Conv2d", 1, 2, channels, 8, 8, batch=16) in sweep
            assert Case("Conv2d", 1, 2, channels, 32, 16, 1, 16, "channels_last") in sweep
        assert Case("Conv2d", 1, 2, 12, 8, 56) in sweep
        assert Case("ConvTranspose2d", 1, 2, 3, 6, 8) in sweep
    for layout in LAYOUTS:
        assert set(cases(layout, "test")) < set(cases(layout, "full"))


def test_a_case_that_kills_is_found_and_the_rest_still_runs() -> None:
    read = {
        case: (case.inputs * case.groups, case.size)
        for case in cases("channels_last", "test")
        if (case.kind, case.kernel, case.stride) == ("Conv2d", 1, 2)
    }
    hit = {case: shape for case, shape in read.items() if shape in (KILLS, WRONG)}
    assert set(hit.values()) == {KILLS, WRONG}
    found = list(findings("channels_last", 1, "test", module=UNSOUND))
    assert [finding.case for finding in found] == [str(case) for case in hit]
    for shape, finding in zip(hit.values(), found, strict=True):
        what = "SIGSEGV" if shape == KILLS else "gradient of the input is off by 20 %"
        assert what in finding.what
        assert (finding.layout, finding.threads) == ("channels_last", 1)


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(guard, "_sound", set())


@pytest.mark.usefixtures("unknown")
def test_the_guard_names_build_case_and_way_out_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[str] = []

    def sweep(threads: list[int], module: str) -> str | None:
        swept.append(module)
        first = next(findings("channels_last", threads[0], "test", module=module))
        return str(first)

    monkeypatch.setattr(guard, "_sweep", sweep)
    for _ in range(2):
        with pytest.raises(UnsoundTorch) as caught:
            require_sound(tmp_path, module=UNSOUND)
        message = str(caught.value)
        assert f"torch {torch.__version__} (git {str(torch.version.git_version)[:10]}" in message
        assert "Conv2d of kernel 1, stride 2" in message
        assert "finetune.epochs 0" in message
    assert swept == [UNSOUND]
    (kept,) = tmp_path.glob("torch-*.json")
    assert str(kept) in message
    # Another number of threads is another verdict; a file that was cut off is none.
    assert json.loads(kept.read_text())["build"]["threads"] == [1, 2]
    kept.write_text(kept.read_text()[:40])
    with pytest.raises(UnsoundTorch):
        require_sound(tmp_path, module=UNSOUND)
    assert len(swept) == 2


@pytest.mark.usefixtures("unknown")
def test_of_several_that_ask_at_once_one_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        require_sound(tmp_path / "new")

    monkeypatch.setattr(guard, "_sweep", lambda *_: swept.append(1))
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert swept == [1]


@pytest.mark.usefixtures("unknown")
def test_a_folder_that_cannot_be_made_costs_a_sweep_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    swept: list[int] = []
    monkeypatch.setattr(guard, "_sweep", lambda *_: swept.append(1))
    for _ in range(2):
        require_sound(tmp_path / "file" / "below")
    assert swept == [1]


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize(
    "text", ["", "[]", '{"finding": 5}', '{"finding": {}}', '{"build": {}}', "\0", "[" * 100_000]
)
def test_a_damaged_verdict_is_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    monkeypatch.setattr(guard, "_sweep", lambda *_: swept.append(1))
    require_sound(tmp_path)
    (kept,) = tmp_path.glob("*.json")
    sound = kept.read_text()
    kept.write_text(text)
    monkeypatch.setattr(guard, "_sound", set())
    require_sound(tmp_path)
    assert (len(swept), kept.read_text()) == (2, sound)


@pytest.mark.usefixtures("unknown")
def test_a_verdict_that_cannot_be_kept_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, file: IO[str], **__: object) -> None:
        file.write("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(guard, "_sweep", lambda *_: None)
    monkeypatch.setattr(json, "dump", full)
    require_sound(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_fine_tuning_the_demo_network_has_the_gradients_of_float64() -> None:
    """At widths that killed it: 6 channels are read by a convolution of kernel 1 and stride 2."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.demo_gradients", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | AVX2,
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) > 20
    # A rectifier's input near 0 may fall on either side; wrong gradients are off by a fifth.
    assert max(differences.values()) < 5e-3


def test_short_tuning_and_fine_tuning_train_in_the_form_that_is_swept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = evaluator(job(finetune=FineTuneSpec(epochs=1, batch_size=200)))
    begun: list[bool] = []
    begin = Training.begin

    def noted(self: Training, inputs: torch.Tensor) -> list[Any]:
        begun.append(torch.is_grad_enabled())
        return begin(self, inputs)

    monkeypatch.setattr(Training, "begin", noted)
    made.evaluate(kept(0.5), tuning_steps=2, seed=1)
    assert begun == [True, True]
    FineTuner(made.network(kept(0.5)), made, seed=5).run(max_seconds=0)
    assert begun == [True, True, True]


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 4, 1, stride=(2, 3), padding=(1, 0)),
        nn.Conv2d(4, 4, 1, stride=2, padding=2, groups=2, padding_mode="reflect", bias=False),
        nn.Conv1d(3, 2, 1, stride=3, padding=1),
        nn.Conv3d(2, 3, 1, stride=(1, 2, 2)),
        nn.ConvTranspose2d(3, 4, 1, stride=(3, 2), padding=(1, 0), output_padding=(2, 1)),
        nn.ConvTranspose2d(4, 6, 1, stride=2, groups=2, bias=False),
        nn.ConvTranspose1d(3, 2, 1, stride=3, padding=2, output_padding=1),
    ],
)
def test_strided_convolutions_of_kernel_one_are_the_same_function(module: nn.Module) -> None:
    code = fx.Graph()
    code.output(code.call_module("layer", (code.placeholder("x"),)))
    network = fx.GraphModule({"layer": module.double()}, code)
    channels = module.in_channels
    sizes = (5, 6, 7)[: module.weight.dim() - 2]  # type: ignore[operator]
    x = torch.randn((2, channels, *sizes), generator=torch.Generator().manual_seed(0)).double()  # type: ignore[arg-type]
    run = Training(network, channels_last=True)
    assert run.calls[1] is not module
    torch.testing.assert_close(run(x), module(x))
