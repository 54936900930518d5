"""Chains of layers as network files, with weights of no meaning, to be timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from search.cost.chains import Chain, Layer

_OPSET, _IR = 18, 10  # as the exporter writes


def input_of(chain: Chain, batch: int) -> NDArray[np.float32]:
    """What a chain reads, `(batch, ...)`."""
    first = chain.layers[0]
    if first.kernel:
        shape: tuple[int, ...] = (batch, first.inputs, *first.extent)
    elif first.extent == (1,):
        shape = (batch, first.inputs)
    else:
        shape = (batch, *first.extent, first.inputs)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def write_chain(chain: Chain, path: Path) -> Path:
    """Write a chain as ONNX with the batch free; a convolution is followed by a ReLU."""
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    name = "input"
    for index, layer in enumerate(chain.layers):
        for node, tensors in _nodes(layer, name, f"layer{index}"):
            nodes.append(node)
            stored += tensors
            name = node.output[0]
    free: Sequence[int | str] = ("batch", *input_of(chain, 1).shape[1:])
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        stored,
    )
    opset = helper.make_opsetid("", _OPSET)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=_IR), path)
    return path


def _nodes(
    layer: Layer, source: str, name: str
) -> Iterator[tuple[onnx.NodeProto, list[onnx.TensorProto]]]:
    random = np.random.default_rng(0)

    def tensor(suffix: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape, np.float32) * np.float32(layer.inputs**-0.5)
        found: onnx.TensorProto = numpy_helper.from_array(values, f"{name}.{suffix}")
        return found

    def node(kind: str, inputs: list[str], suffix: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{name}.{suffix}"], **attributes)

    bias = tensor("bias", layer.outputs)
    if layer.kernel:
        weight = tensor("weight", layer.outputs, layer.inputs // layer.groups, *layer.kernel)
        convolution = node(
            "Conv",
            [source, weight.name, bias.name],
            "convolved",
            kernel_shape=layer.kernel,
            strides=layer.stride,
            pads=layer.padding * 2,
            dilations=layer.dilation,
            group=layer.groups,
        )
        yield convolution, [weight, bias]
        yield node("Relu", [convolution.output[0]], "relu"), []
        return
    weight = tensor("weight", layer.inputs, layer.outputs)
    if layer.extent == (1,):
        yield node("Gemm", [source, weight.name, bias.name], "mapped"), [weight, bias]
        return
    product = node("MatMul", [source, weight.name], "product")
    yield product, [weight]
    yield node("Add", [product.output[0], bias.name], "mapped"), [bias]
