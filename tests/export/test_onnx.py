from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from search.evaluation.metrics import outputs
from search.export.onnx import OnnxExportFailed, OnnxNetwork, equality, export_onnx
from tests.evaluation.digits import digits, evaluator, kept


def inputs(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_onnx_equals_torch_for_any_batch(tmp_path: Path) -> None:
    made = evaluator()
    network = made.network(kept(0.5))
    path = tmp_path / "network.onnx"
    found = export_onnx(network, inputs(16), path, {"classes": ["<a>", "ü"]})
    assert found.same_choice == 1.0
    assert found.max_difference < 1e-4
    session = onnxruntime.InferenceSession(path)
    for count in (1, 2, 33):
        (there,) = session.run(None, {"input": inputs(count).numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(there, network(inputs(count)).numpy(), atol=1e-4)


def test_onnx_is_one_checked_file_that_tells_nothing_of_its_maker(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "network.onnx"
    export_onnx(digits().network, inputs(2), path, {"classes": ["<a>", "ü"]})
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert [json.loads(item.value) for item in model.metadata_props] == [["<a>", "ü"]]
    content = path.read_bytes()
    assert not any(word in content for word in (b".py", b"/home", str(Path.cwd()).encode()))


def test_outputs_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return outputs(network, x) + (0.5 if isinstance(network, OnnxNetwork) else 0.0)

    monkeypatch.setattr("search.export.onnx.outputs", off)
    with pytest.raises(OnnxExportFailed, match=r"differ by 0\.5"):
        export_onnx(digits().network, inputs(2), tmp_path / "network.onnx", {})


def test_nan_is_not_equal() -> None:
    ones = np.ones((2, 3))
    assert equality(ones, ones).within(0)
    assert not equality(ones * np.nan, ones).within(1e9)
    assert not equality(0 * ones, 5e-4 * ones).within(1e-3), "small outputs are not nothing"
    with pytest.raises(ValueError, match="shape"):
        equality(ones, ones[:1])


def test_a_network_that_onnx_cannot_carry_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(OnnxExportFailed, match="no such operator"):
        export_onnx(digits().network, inputs(2), tmp_path / "network.onnx", {})
