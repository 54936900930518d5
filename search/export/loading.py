"""The report's section on how to load the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.export.page import Markup, join, tag
from search.export.result import Result


def _preprocessing(result: Result) -> str:
    if result.evaluator.fit.integers:
        return f"Inputs are whole numbers ({result.evaluator.fit.dtype}), taken as they are."
    given = result.evaluator.original.meta["manifest"].preprocessing
    steps = [f"raw values times {given.scale:.6g}"]
    steps += [f"{list(given.mean)} subtracted"] if given.mean else []
    steps += [f"divided by {list(given.std)}"] if given.std else []
    return f"Inputs are preprocessed as for the original: {', then '.join(steps)}."


def how_to_load(result: Result, metrics: Mapping[str, Any]) -> Markup:
    """The section, with what the verification found.

    Args:
        metrics: as `report` takes them.
    """
    shape = ", ".join(map(str, result.evaluator.fit.input_shape))
    torch_code = (
        "import espalier\n\n"
        'network = espalier.load("network.espalier")  # a torch.nn.Module, in eval mode\n'
        f"scores = network(inputs)                     # inputs: (batch, {shape})"
    )
    onnx_code = (
        "import onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("network.onnx")\n'
        'scores, = session.run(None, {"input": inputs})'
    )
    equal = metrics["equality"]
    checks = join(
        (
            tag("span", "Verified. ", class_="good"),
            "Both files were reloaded in a fresh process. Largest difference of an output from "
            f"the network in memory: {equal['package']['max_difference']:.2g} (package), "
            f"{equal['onnx']['max_difference']:.2g} (ONNX), where the largest output is "
            f"{equal['package']['scale']:.3g}.",
        )
    )
    return tag(
        "section",
        tag("h2", "How to load it"),
        tag("p", _preprocessing(result)),
        tag("pre", torch_code),
        tag("pre", onnx_code),
        tag("p", checks),
    )
