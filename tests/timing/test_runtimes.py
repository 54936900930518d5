"""Networks timed for real, in each runtime."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from espalier.runtimes import RUNTIMES, RuntimeMissing
from espalier.runtimes.onnxruntime import OnnxRuntime
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


def expected(depth: int) -> NDArray[np.float64]:
    x = INPUTS.astype(np.float64)
    for _ in range(depth):
        x = np.tanh(np.einsum("oi,bihw->bohw", WEIGHT[:, :, 0, 0].astype(np.float64), x))
    return x


def test_the_table_has_every_runtime_by_its_name() -> None:
    assert [runtime.name for runtime in RUNTIMES.values()] == list(RUNTIMES)
    assert set(RUNTIMES) <= set(get_args(RuntimeName))


@pytest.mark.parametrize("name", [n for n, r in RUNTIMES.items() if r.suffix == ".onnx"])
def test_what_is_timed_is_the_file_on_the_inputs(tmp_path: Path, name: RuntimeName) -> None:
    runtime = RUNTIMES[name]
    assert runtime.version()
    assert runtime.devices() == (processor(),)
    made = runtime.prepare(convolutions(tmp_path / "chain.onnx", 3), INPUTS)
    made.run()
    assert made.output() == pytest.approx(expected(3), abs=1e-4)


@pytest.mark.parametrize("name", [n for n, r in RUNTIMES.items() if r.suffix == ".onnx"])
def test_twice_the_layers_take_twice_the_time(tmp_path: Path, name: RuntimeName) -> None:
    short, long = (
        RUNTIMES[name].prepare(convolutions(tmp_path / f"{depth}.onnx", depth), INPUTS)
        for depth in (10, 20)
    )
    timing = paired(short, long)
    assert timing.clock == short.clock
    assert 1.6 < timing.ratio < 2.3
    assert timing.low <= timing.ratio <= timing.high
    assert timing.after_s / timing.before_s == pytest.approx(timing.ratio, rel=0.1)


def test_several_threads_are_timed_on_the_wall(tmp_path: Path) -> None:
    file = convolutions(tmp_path / "chain.onnx", 1)
    assert OnnxRuntime().prepare(file, INPUTS, threads=1).clock == "thread"
    assert OnnxRuntime().prepare(file, INPUTS, threads=2).clock == "wall"


def test_what_is_missing_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeMissing, match="no device of kind cuda"):
        OnnxRuntime().prepare(tmp_path / "any.onnx", INPUTS, kind="cuda")
    monkeypatch.setattr(OnnxRuntime, "version", lambda _: None)
    assert OnnxRuntime().devices() == ()
    with pytest.raises(RuntimeMissing, match="not installed here: pip install onnxruntime"):
        OnnxRuntime().prepare(tmp_path / "any.onnx", INPUTS)
