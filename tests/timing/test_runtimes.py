"""Networks timed for real, in each runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from espalier.format.lift import pack
from espalier.runtimes import RUNTIMES, RuntimeMissing
from espalier.runtimes.onnxruntime import OnnxRuntime
from espalier.runtimes.torch import _OnCuda
from espalier.targets import RuntimeName, processor
from espalier.timing import paired

INPUTS: NDArray[np.float32] = (
    np.random.default_rng(0).standard_normal((2, 16, 12, 12)).astype(np.float32)
)
WEIGHT: NDArray[np.float32] = (np.random.default_rng(1).standard_normal((16, 16, 1, 1)) / 4).astype(
    np.float32
)


def convolutions(path: Path, depth: int) -> Path:
    """A chain of pointwise convolutions with their activations, the batch free."""
    nodes = []
    for i in range(depth):
        nodes += [
            helper.make_node("Conv", [f"x{i}", "w"], [f"c{i}"]),
            helper.make_node("Tanh", [f"c{i}"], [f"x{i + 1}"]),
        ]
    shape = ["batch", *INPUTS.shape[1:]]
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("x0", f"x{depth}")
    )
    weights = [numpy_helper.from_array(WEIGHT, "w")]
    graph = helper.make_graph(nodes, "chain", [source], [result], weights)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def network(folder: Path, suffix: str, depth: int) -> Path:
    """The same chain, in the form that a runtime reads."""
    if suffix == ".onnx":
        return convolutions(folder / f"{depth}.onnx", depth)
    layers = [nn.Conv2d(16, 16, 1, bias=False) for _ in range(depth)]
    for layer in layers:
        layer.weight.data = torch.from_numpy(WEIGHT)
    chain = nn.Sequential(*(module for layer in layers for module in (layer, nn.Tanh())))
    return pack(chain, torch.from_numpy(INPUTS), folder / f"{depth}.espalier")


def expected(depth: int) -> NDArray[np.float64]:
    x = INPUTS.astype(np.float64)
    for _ in range(depth):
        x = np.tanh(np.einsum("oi,bihw->bohw", WEIGHT[:, :, 0, 0].astype(np.float64), x))
    return x


def test_the_table_has_every_runtime_by_its_name() -> None:
    assert [runtime.name for runtime in RUNTIMES.values()] == list(RUNTIMES)
    assert set(RUNTIMES) == set(get_args(RuntimeName))


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_is_timed_is_the_file_on_the_inputs(tmp_path: Path, name: RuntimeName) -> None:
    runtime = RUNTIMES[name]
    assert runtime.version()
    assert processor() in runtime.devices()
    made = runtime.prepare(network(tmp_path, runtime.suffix, 3), INPUTS)
    made.run()
    assert made.output() == pytest.approx(expected(3), abs=1e-4)


@pytest.mark.parametrize("name", RUNTIMES)
def test_twice_the_layers_take_twice_the_time(tmp_path: Path, name: RuntimeName) -> None:
    short, long = (
        RUNTIMES[name].prepare(network(tmp_path, RUNTIMES[name].suffix, depth), INPUTS)
        for depth in (10, 20)
    )
    timing = paired(short, long, most_s=8)
    assert timing.clock == short.clock
    assert 1.5 < timing.ratio < 2.5
    assert timing.low <= timing.ratio <= timing.high
    assert timing.after_s / timing.before_s == pytest.approx(timing.ratio, rel=0.1)


def test_several_threads_are_timed_on_the_wall(tmp_path: Path) -> None:
    clocks = {
        name: runtime.prepare(network(tmp_path, runtime.suffix, 1), INPUTS, threads=2).clock
        for name, runtime in RUNTIMES.items()
    }
    torch.set_num_threads(1)
    assert set(clocks.values()) == {"wall"}


def test_what_is_missing_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeMissing, match="no device of kind cuda"):
        OnnxRuntime().prepare(tmp_path / "any.onnx", INPUTS, kind="cuda")
    monkeypatch.setattr(OnnxRuntime, "version", lambda _: None)
    assert OnnxRuntime().devices() == ()
    with pytest.raises(RuntimeMissing, match="not installed here: pip install onnxruntime"):
        OnnxRuntime().prepare(tmp_path / "any.onnx", INPUTS)


def test_openvino_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    file = convolutions(tmp_path / "chain.onnx", 1)
    home = tmp_path / "home"
    home.mkdir()
    code = """
import sys, numpy, pathlib
from espalier.runtimes import RUNTIMES
RUNTIMES["openvino"].prepare(pathlib.Path(sys.argv[1]), numpy.zeros((1, 16, 12, 12), "float32"))
assert "openvino.tools.ovc.telemetry_stub" in sys.modules
assert "openvino_telemetry" not in sys.modules
import openvino_telemetry
"""
    run = [sys.executable, "-c", code, str(file)]
    assert subprocess.run(run, env={**os.environ, "HOME": str(home)}).returncode == 0
    assert not list(home.iterdir())


def test_passes_on_an_accelerator_are_timed_by_its_own_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            return 1000.0 * done.count("pass")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    made = _OnCuda(lambda: done.append("pass"), lambda: INPUTS)
    assert made.clock == "cuda"
    assert made.seconds(3) == 3.0
    assert done == ["record", "pass", "pass", "pass", "record", "synchronize"]
