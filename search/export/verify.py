"""Measure a job's exports in a fresh process, from nothing but the files.

    python -m search.export.verify --package P --onnx O --original Q --original_onnx N \
        --dataset D --spec spec.json --reference R

The pruned network is reloaded from its package and from ONNX, compared with the outputs that the
job's process had in memory, and measured on the test split, as is the original: this is the one
use of the test split. Costs are counted from the reloaded network's own graph; times are those of
the files, beside those of the original. Prints one JSON object; when something is wrong with the
files that has `error` and `message`, and the exit status is 1. Any other error ends the process
with its traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from espalier.format.build import graph_of, load
from espalier.format.errors import EspalierError
from search.cost import CostModel
from search.evaluation.data import load_dataset
from search.evaluation.evaluator import Evaluator
from search.evaluation.metrics import finite, outputs
from search.export.onnx import TOLERANCE, Equality, OnnxNetwork, equality
from search.export.timings import timings
from search.graph import space_of
from search.lifeline import end_with
from search.spec import JobSpec

_NAMES = ("package", "onnx", "original", "original_onnx", "dataset", "spec", "reference")


class VerificationFailed(EspalierError):
    """Exports that do not load, or are not what the job had in memory."""

    code = "export.verification"


class VerificationDied(Exception):
    """The fresh process ended without a verdict; another attempt may get one."""


def measure(
    *,
    package: Path,
    onnx: Path,
    original: Path,
    original_onnx: Path,
    dataset: Path,
    spec: Path,
    reference: Path,
) -> dict[str, Any]:
    """What the fresh process does.

    Args:
        original_onnx: the original as an ONNX file, made like `onnx`.
        reference: safetensors with `logits` `(n, classes)`, the outputs in memory for the first
            n examples of the hold-out.

    Raises:
        EspalierError: a file does not load, or outputs differ.
    """
    dense, pruned = load(original), load(package)
    space = space_of(graph_of(dense))
    evaluator = Evaluator(
        dense,
        space,
        load_dataset(dataset),
        dense.meta["manifest"],
        JobSpec.model_validate_json(spec.read_bytes()),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
    pruned.to(evaluator.device)
    runtime = OnnxNetwork(onnx)
    wanted = load_file(reference)["logits"]
    feed, indices = evaluator.examples("holdout")
    inputs = feed.inputs(indices[: len(wanted)])
    equal = {
        name: _compare(name, network, inputs, wanted)
        for name, network in (("package", pruned), ("onnx", runtime))
    }
    before, after = (dict(CostModel(space_of(graph_of(net))).full) for net in (dense, pruned))
    macs_ratio = after["macs"] / before["macs"] if before["macs"] else 1.0
    pairs = {".onnx": (original_onnx, onnx), ".espalier": (original, package)}
    timed = timings(pairs, inputs.cpu().numpy(), evaluator.spec.target)
    return {
        "test": {
            "before": finite(evaluator.measure(dense, "test")),
            "after": finite(evaluator.measure(pruned, "test")),
            "onnx": finite(evaluator.measure(runtime, "test")),
        },
        "test_examples": len(evaluator.splits.test),
        "cost": {"before": before, "after": after},
        "equality": {name: dataclasses.asdict(value) for name, value in equal.items()},
        "timings": [timing | {"macs_ratio": macs_ratio} for timing in timed],
        "device": str(evaluator.device),
        "verified": True,
    }


def _compare(
    name: str, network: torch.nn.Module, inputs: torch.Tensor, wanted: torch.Tensor
) -> Equality:
    with torch.inference_mode():
        found = equality(outputs(network, inputs).cpu().numpy(), wanted.numpy())
    if not found.within(TOLERANCE):
        raise VerificationFailed(
            f"the reloaded {name} differs by {found.max_difference:.3g} from the network in "
            f"memory, whose largest output is {found.scale:.3g}"
        )
    return found


def verify(
    *,
    package: Path,
    onnx: Path,
    original: Path,
    original_onnx: Path,
    dataset: Path,
    spec: Path,
    reference: Path,
    timeout_s: float = 3600,
) -> dict[str, Any]:
    """Run `measure` in a fresh process, which ends with this one.

    Raises:
        VerificationFailed: it found something wrong.
        VerificationDied: it ended by itself, or took longer than `timeout_s`.
    """
    files = (package, onnx, original, original_onnx, dataset, spec, reference)
    options = [f"--{name}={path}" for name, path in zip(_NAMES, files, strict=True)]
    command = [sys.executable, "-m", "search.export.verify", *options]
    theirs, ours = os.pipe()  # ends when this process does, however that happens
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, f"--lifeline={theirs}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            pass_fds=(theirs,),
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationDied(f"verification took longer than {timeout_s:g} s") from error
    finally:
        os.close(theirs)
        os.close(ours)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        last = done.stderr.strip().rpartition("\n")[2] or "it was killed, or ran out of memory"
        raise VerificationDied(
            f"the verifying process ended with status {done.returncode}: {last}"
        ) from error
    if done.returncode or not answer.get("verified"):
        raise VerificationFailed(str(answer.get("message", "verification failed")))
    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m search.export.verify")
    for name in _NAMES:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--lifeline", type=int, help="file descriptor whose end ends the process")
    options = vars(parser.parse_args(arguments))
    lifeline = options.pop("lifeline")
    if lifeline is not None:
        end_with(lifeline)
    torch.set_num_threads(1)
    try:
        answer = measure(**options)
    except EspalierError as error:
        print(json.dumps({"verified": False, "error": error.code, "message": str(error)}))
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
