"""The pruned network as ONNX, compared with torch before it is handed out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.fx import GraphModule

from espalier.format.build import build, graph_of, tensors_of
from espalier.format.errors import EspalierError
from espalier.format.network import Network, with_plain_names
from search.evaluation.metrics import outputs

TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest output; folding batch-norm into
convolutions changes rounding only."""

_SMALL = 1e-2  # below that, outputs are what larger numbers left, and so is their rounding

_INPUT, _OUTPUT = "input", "output"


class OnnxExportFailed(EspalierError):
    """A network that ONNX cannot carry, or whose ONNX computes something else."""

    code = "export.onnx"


@dataclass(frozen=True, slots=True)
class Equality:
    """How far two runs of one network are apart.

    Attributes:
        max_difference: largest absolute difference of an output.
        scale: largest absolute output of the reference.
        same_choice: fraction of the examples where the largest output is at the same place.
    """

    max_difference: float
    scale: float
    same_choice: float

    def within(self, tolerance: float) -> bool:
        # Written so that NaN is not within.
        return self.max_difference <= tolerance * max(_SMALL, self.scale)


def equality(found: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> Equality:
    """Compare class scores `(n, classes)`.

    Raises:
        ValueError: the shapes differ.
    """
    if found.shape != reference.shape:
        raise ValueError(f"outputs have shape {found.shape}, not {reference.shape}")
    same = found.argmax(1) == reference.argmax(1)
    return Equality(
        float(np.abs(found - reference).max()), float(np.abs(reference).max()), float(same.mean())
    )


class OnnxNetwork(torch.nn.Module):
    """An ONNX file as a module on the CPU, run by onnxruntime in one thread."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        (self._name,) = (item.name for item in self._session.get_inputs())

    def forward(self, inputs: Tensor) -> Tensor:
        (found,) = self._session.run(None, {self._name: inputs.cpu().numpy()})
        return torch.from_numpy(found).to(inputs.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own internals, which no caller can act on."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def matters(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(matters)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        registry.removeFilter(matters)


def export_onnx(
    network: GraphModule, inputs: Tensor, path: Path, facts: Mapping[str, Any]
) -> Equality:
    """Write `network` as one ONNX file with the batch free, and compare it with torch.

    Args:
        inputs: `(n, ...)` real examples, n at least 2, as the network takes them.
        facts: JSON values for the file's metadata (preprocessing, classes).

    Raises:
        OnnxExportFailed: it cannot be exported, or differs by more than `TOLERANCE`.
    """
    network = network.cpu().eval()
    inputs = inputs.cpu()
    try:
        with _quiet():
            program = torch.onnx.export(
                _named_plainly(network),
                (inputs[:2],),
                dynamo=True,
                external_data=False,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        if program is None:
            raise OnnxExportFailed("the ONNX exporter gave nothing")
        proto = program.model_proto
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise OnnxExportFailed(f"the network cannot be written as ONNX: {error}") from error
    _clean(proto, facts)
    onnx.save(proto, path)
    with torch.inference_mode():
        reference = outputs(network, inputs).numpy()
        found = outputs(OnnxNetwork(path), inputs).numpy()
    result = equality(found, reference)
    if not result.within(TOLERANCE):
        raise OnnxExportFailed(
            f"the ONNX file's outputs differ by {result.max_difference:.3g} from torch's, whose "
            f"largest is {result.scale:.3g}; {TOLERANCE} of that is allowed"
        )
    return result


def _named_plainly(network: GraphModule) -> GraphModule:
    """The exporter writes names into code, where those that are Python's keywords do not fit."""
    if not isinstance(network, Network):
        return network
    graph, names = with_plain_names(network)
    if graph == graph_of(network):
        return network
    tensors = tensors_of(network)
    return build(graph, {plain: tensors[name] for plain, name in names.items()})


def _clean(proto: onnx.ModelProto, facts: Mapping[str, Any]) -> None:
    """Drop what the exporter notes of this machine (stack traces, paths); add the facts."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    proto.producer_name, proto.producer_version = "espalier", ""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
