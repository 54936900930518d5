"""The manifest of a package: what it says about itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from espalier.format import strict_json
from espalier.format.errors import FormatError
from espalier.format.ir import Graph, size
from espalier.format.versions import Version
from espalier.text import Line


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Preprocessing(_Frozen):
    """How raw data becomes the network's input: `(raw * scale - mean) / std`.

    `mean` and `std` have one value for each channel (dimension 1), or are empty.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = Field((), max_length=65_536)
    std: tuple[float, ...] = Field((), max_length=65_536)

    @model_validator(mode="after")
    def _usable(self) -> Preprocessing:
        if self.scale == 0 or any(value <= 0 for value in self.std):
            raise ValueError("scale must not be zero, and every std must be positive")
        return self


class InputSpec(_Frozen):
    """One input of the network.

    Attributes:
        name: as in the graph.
        shape: without the batch.
        dtype: torch's name without the prefix.
    """

    name: str = Field(max_length=128)
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(max_length=8)
    dtype: str = Field(max_length=16)


class Manifest(_Frozen):
    """What a package says about itself.

    Attributes:
        digests: SHA-256 of the other members, in hexadecimal.
        notes: where the packed network does not do what the original did.
        extra: further facts, such as how the network was pruned.
    """

    format_version: Version = 1
    name: Line = Field(min_length=1, max_length=200)
    inputs: tuple[InputSpec, ...] = Field(min_length=1, max_length=64)
    preprocessing: Preprocessing = Preprocessing()
    classes: tuple[Annotated[Line, Field(max_length=200)], ...] = Field((), max_length=100_000)
    digests: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    notes: tuple[Annotated[Line, Field(max_length=500)], ...] = Field((), max_length=100)
    extra: dict[str, JsonValue] = {}


def manifest_from_json(text: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        FormatError: it is malformed; the message names the first field that is.
    """
    raw = strict_json.loads(text, what="manifest.json")
    strict_json.check_texts(raw, what="manifest.json")
    if not isinstance(raw, dict):
        raise FormatError("manifest.json must be an object")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise malformed("manifest.json", error) from None


def malformed(thing: str, error: ValidationError) -> FormatError:
    """The first of pydantic's errors in a line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    message = first["msg"].removeprefix("Value error, ")[:200]
    return FormatError(": ".join(part for part in (thing, where, message) if part))


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """The inputs of a graph, as its manifest has them."""
    return tuple(
        InputSpec(name=name, shape=tuple(size(dim) for dim in kind.shape[1:]), dtype=kind.dtype)
        for name, kind in graph.inputs.items()
    )


def check_manifest(manifest: Manifest, graph: Graph) -> None:
    """See that a manifest fits its graph.

    Raises:
        FormatError: it does not.
    """
    if manifest.inputs != input_specs(graph):
        raise FormatError("manifest.json and graph.json disagree on the inputs")
    channels = [spec.shape[0] if spec.shape else 1 for spec in manifest.inputs]
    for values in (manifest.preprocessing.mean, manifest.preprocessing.std):
        if len(values) not in (0, 1, channels[0]):
            raise FormatError(f"preprocessing has {len(values)} values for {channels[0]} channels")
