"""The header of `weights.safetensors`: written and checked without reading a tensor.

Layout: eight bytes little-endian length, a JSON object, the tensors' bytes. Source: the
safetensors format description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from espalier.format import strict_json
from espalier.format.check import ITEM_BYTES
from espalier.format.errors import FormatError
from espalier.format.ir import Stored

CODES: Mapping[str, str] = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor's bytes lie.

    Attributes:
        stored: its shape and type.
        offset: of its first byte, from the beginning of the package.
        size_bytes: their number.
    """

    stored: Stored
    offset: int
    size_bytes: int


def size_bytes(stored: Stored) -> int:
    """Bytes that a tensor takes."""
    return math.prod(stored.shape) * ITEM_BYTES[stored.dtype]


def header(stored: Mapping[str, Stored]) -> bytes:
    """The length and the JSON object for tensors that follow in this order."""
    entries: dict[str, object] = {}
    start = 0
    for name, item in stored.items():
        stop = start + size_bytes(item)
        entries[name] = {
            "dtype": CODES[item.dtype],
            "shape": list(item.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_header(
    text: bytes, stored: Mapping[str, Stored], data_offset: int, data_bytes: int
) -> dict[str, Span]:
    """Where each tensor of the graph lies; every byte of the data belongs to exactly one.

    Args:
        text: the JSON object.
        stored: what the graph says.
        data_offset: where the data begins in the package.
        data_bytes: how much of it there is.
    Raises:
        FormatError: the header contradicts the graph, itself, or the length of the file.
    """
    entries = strict_json.loads(text, what="the header of weights.safetensors")
    if not isinstance(entries, dict):
        raise FormatError("the header of weights.safetensors must be an object")
    entries.pop("__metadata__", None)
    for name in sorted(entries.keys() ^ stored.keys()):
        where = "weights.safetensors" if name in stored else "graph.json"
        raise FormatError(f"tensor {name[:200]!r} is missing in {where}")
    spans: dict[str, Span] = {}
    for name, item in stored.items():
        wanted = {"dtype": CODES[item.dtype], "shape": list(item.shape)}
        entry = entries[name]
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise FormatError(f"tensor {name}: its entry in the header is malformed")
        if {key: entry[key] for key in wanted} != wanted:
            raise FormatError(f"tensor {name}: header and graph disagree on shape or type")
        offsets = entry["data_offsets"]
        if not isinstance(offsets, list) or [type(o) for o in offsets] != [int, int]:
            raise FormatError(f"tensor {name}: its offsets are malformed")
        if offsets[0] < 0 or offsets[1] - offsets[0] != size_bytes(item):
            raise FormatError(f"tensor {name}: its offsets do not fit its shape")
        spans[name] = Span(item, data_offset + offsets[0], size_bytes(item))
    end = data_offset
    for name, span in sorted(
        spans.items(), key=lambda entry: (entry[1].offset, entry[1].size_bytes)
    ):
        if span.offset != end:
            raise FormatError(f"tensor {name}: its bytes overlap others or leave a gap")
        end += span.size_bytes
    if end != data_offset + data_bytes:
        raise FormatError("weights.safetensors is longer or shorter than its tensors")
    return spans
