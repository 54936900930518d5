from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from espalier.runtimes import RUNTIMES, Runnable, RuntimeMissing
from espalier.targets import Device, Target, processor
from espalier.timing import Timing
from search.export import timings as module
from search.export.timings import little_saved, timings, timings_section
from search.spec import TargetSpec
from tests.export.finished import written

TIMING: dict[str, Any] = {
    **Target("onnxruntime", "1.31.1", processor()).to_json(),
    **Timing(0.98, 0.97, 0.99, 0.002, 0.00196, 20, False, "thread").to_json(),
    "macs_ratio": 0.5,
}


def onnx_file() -> Path:
    (file,) = (file for file in written().files if file.name == "network.onnx")
    return file.path


def test_the_exported_file_is_timed_beside_the_originals_at_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, int, float]] = []

    class Recording:
        name, suffix = "onnxruntime", ".onnx"
        version, devices = RUNTIMES["onnxruntime"].version, RUNTIMES["onnxruntime"].devices

        def prepare(self, file: Path, inputs: NDArray[Any], *, threads: int, kind: str) -> Runnable:
            assert (threads, kind) == (3, "cpu")
            seen.append((file.name, len(inputs), float(inputs[-1, 0])))
            return Runnable(lambda: None, lambda: inputs, "wall")

    monkeypatch.setitem(RUNTIMES, "onnxruntime", Recording())
    timing = Timing(0.5, 0.4, 0.6, 2.0, 1.0, 16, False, "wall")
    monkeypatch.setattr(module, "paired", lambda first, second, most_s: timing)  # noqa: ARG005
    files = {".onnx": (Path("original.onnx"), Path("network.onnx"))}
    inputs = np.arange(10.0).reshape(10, 1)
    found = timings(files, inputs, TargetSpec(threads=3, batch=4))
    assert seen == [
        (name, batch, last)
        for batch, last in ((4, 3.0), (1, 0.0), (32, 1.0))  # 32 of ten: they come again
        for name in ("original.onnx", "network.onnx")
    ]
    assert [(one["batch"], one["threads"], one["ratio"]) for one in found] == [
        (4, 3, 0.5),
        (1, 3, 0.5),
        (32, 3, 0.5),
    ]
    assert Target.from_json({key: found[0][key] for key in TARGET}).device == processor()


TARGET = ("runtime", "version", "device", "precision", "threads", "batch")


def test_a_network_beside_itself_takes_as_long() -> None:
    files = {".onnx": (onnx_file(), onnx_file())}
    found = timings(files, np.zeros((2, 1, 8, 8), np.float32), TargetSpec())
    assert [one["batch"] for one in found] == [1, 32]
    for one in found:
        assert one["clock"] == "thread"
        assert 0.8 < one["low"] <= one["ratio"] <= one["high"] < 1.25
    # A pass over 32 takes longer than one over a single example, and not 32 times as long.
    assert 1 < found[1]["before_s"] / found[0]["before_s"] < 32


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(RuntimeMissing, match="runtime onnxruntime, or not the device dev_other"):
        timings({}, np.zeros((1, 1), np.float32), TargetSpec(device="dev_other"))


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"ratio": 0.98}, True),
        ({"ratio": 0.76}, True),
        ({"ratio": 0.74}, False),
        ({"ratio": 1.2}, True),
        ({"ratio": 0.99, "macs_ratio": 0.99}, False),  # there was nothing to save
        ({"ratio": 0.98, "unreliable": True, "low": 0.7}, False),
        ({"ratio": 0.98, "unreliable": True, "low": 0.9}, True),
    ],
)
def test_what_saves_less_than_half_of_its_macs_in_time_is_warned_of(
    changes: dict[str, Any], warned: bool
) -> None:
    found = little_saved(TIMING | changes, (16, 32, 64), (9, 16, 33), fitted=False)
    assert bool(found) is warned


def test_the_warning_names_the_cause_and_the_way_out() -> None:
    (odd,) = little_saved(TIMING, (16, 32, 64), (9, 16, 33), fitted=False)
    assert odd.code == "latency.little_saved"
    for words in (
        "50.0 % of the MACs take 98.0 % of the original's time in onnxruntime 1.31.1, 1 thread, "
        "batch 1 (97.0 to 99.0 %, 99% confidence)",
        "2 of 3 groups keep a number of channels that is no multiple of 8",
        "set rounding.multiple to auto or 8",
    ):
        assert words in odd.message
    for plan in ((8, 16, 32), (8, 24, 48)):
        (even,) = little_saved(TIMING, (16, 32, 64), plan, fitted=False)
        assert "wait for memory" in even.message
        assert "lower the budget" in even.message
    # Widths that were odd before are no cause.
    (before,) = little_saved(TIMING, (10, 20, 30), (9, 16, 33), fitted=False)
    assert "wait for memory" in before.message
    # Nor are those that were found to run fast on the target.
    (chosen,) = little_saved(TIMING, (16, 32, 64), (9, 16, 33), fitted=True)
    assert "rounding.multiple" not in chosen.message


def test_the_report_names_runtime_threads_batch_interval_and_macs() -> None:
    section = timings_section([TIMING, TIMING | {"batch": 32, "unreliable": True}])
    for words in (
        "in onnxruntime 1.31.1, 1 thread, float32, on",
        "processor time of the thread that computes",
        "Batch 1", "Batch 32", "98.0 %", "97.0 to 99.0 %", "97.0 to 99.0 %, unreliable", "50.0 %",
    ):  # fmt: skip
        assert words in section


def test_the_device_of_the_target_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Device("here", "cuda", "An accelerator", "0123456789ab")
    kinds: list[str] = []

    class Recording:
        name, suffix = "torch", ".espalier"

        def version(self) -> str:
            return "2.13.0"

        def devices(self) -> tuple[Device, ...]:
            return processor(), accelerator

        def prepare(self, file: Path, inputs: NDArray[Any], *, threads: int, kind: str) -> Runnable:
            del file, threads
            kinds.append(kind)
            return Runnable(lambda: None, lambda: inputs, "cuda")

    monkeypatch.setitem(RUNTIMES, "torch", Recording())
    timing = Timing(0.5, 0.4, 0.6, 2.0, 1.0, 16, False, "cuda")
    monkeypatch.setattr(module, "paired", lambda first, second, most_s: timing)  # noqa: ARG005
    files = {".espalier": (Path("a"), Path("b"))}
    for device, kind in ((accelerator.id, "cuda"), (processor().id, "cpu"), (None, "cpu")):
        kinds.clear()
        target = TargetSpec(runtime="torch", device=device)
        found = timings(files, np.zeros((1, 1), np.float32), target)
        assert set(kinds) == {kind}
        assert {one["device"]["kind"] for one in found} == {kind}


def test_integers_stay_integers(tmp_path: Path) -> None:
    """Networks that take tokens: their numbers are not made floats."""

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.embedding(tokens).mean(1)
            return found

    from espalier.format.lift import pack

    tokens = torch.tensor([[0, 1, 2], [2, 3, 4]])
    network = Tokens().eval()
    file = pack(network, tokens, tmp_path / "tokens.espalier")
    runnable = RUNTIMES["torch"].prepare(file, tokens.numpy())
    runnable.run()
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(runnable.output()), network(tokens))
