"""Every entry of the table: reached by a network, built, cut and written as ONNX."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from espalier.format.build import KINDS, build
from espalier.format.build_operators import FUNCTIONS
from espalier.format.ir import Graph
from espalier.format.lift import lift
from espalier.format.operators import MODULES, OPERATORS
from search.graph import shrink, space_of
from tests.format.table import everything
from tests.graph.masking import sliced


@functools.cache
def lifted() -> tuple[Graph, dict[str, Tensor]]:
    network, example = everything()
    return lift(network, example)


def test_some_network_reaches_every_operator_and_module() -> None:
    graph, _ = lifted()
    assert {n.op for n in graph.nodes} - {"input", "tensor", "module"} == OPERATORS.keys()
    assert {module.kind for module in graph.modules.values()} == MODULES.keys()
    assert FUNCTIONS.keys() == OPERATORS.keys()
    assert KINDS.keys() == MODULES.keys()


def test_it_is_rebuilt() -> None:
    """To the last bits: a mean beside a variance is computed apart from it."""
    network, example = everything()
    found = build(*lifted())(*example)
    torch.testing.assert_close(found, network(*example), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:# .*:UserWarning")  # how it names axes
def test_cut_it_is_written_as_onnx(tmp_path: Path) -> None:
    graph, tensors = lifted()
    space = space_of(graph)
    assert len(space.groups) > 40
    kept = tuple(tuple(range(-(-group.channels // 2))) for group in space.groups)
    network = build(shrink(space, kept), sliced(space, kept, tensors))
    _, example = everything()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network,
        example,
        tmp_path / "n.onnx",
        dynamo=True,
        external_data=False,
        input_names=["image", "index"],
        dynamic_shapes=({0: batch}, {0: batch}),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    image, index = (torch.cat([each, each]) for each in example)
    (found,) = session.run(None, {"image": image.numpy(), "index": index.numpy()})
    with torch.no_grad():
        expected = network(image, index).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
