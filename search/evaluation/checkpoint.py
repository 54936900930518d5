"""Checkpoints without pickles: tensors in safetensors, the rest as JSON in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from espalier.format.errors import EspalierError

_KEY = "espalier"


class CheckpointInvalid(EspalierError):
    """A checkpoint that is damaged, or of another run."""

    code = "checkpoint.invalid"


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint; it appears under its name only when it is complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    # safetensors refuses tensors that share memory, as tied weights do.
    copies = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    try:
        write_tensors(partial, copies, {_KEY: json.dumps(facts, allow_nan=False)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full, say; safetensors' own error has no number to tell it by.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError:
        with path.open("wb") as file:
            size = sum(value.nbytes for value in tensors.values())
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        raise


def restore(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        CheckpointInvalid: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointInvalid(f"checkpoint {path.name} cannot be read: {error}") from error
