"""What keeps a job under the rules that it began with, across upgrades. Imports no torch.

A rule that changes what a job finds belongs to a new version, and the old rule stays for the old
one. A field that is added is marked with what its absence meant (`Later`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Version = Literal[1, 2]
NEWEST: Version = 2


def with_version(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored specification with its version; what was stored without one is of the first."""
    return {"version": 1, **values}


@dataclass(frozen=True, slots=True)
class Later:
    """Marks a field that specifications stored before it was there lack: they mean `value`."""

    value: Any


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """What a job's work is matched by, as JSON values: the same before and after an upgrade.

        A field that came later is left out while it says what its absence said before.
        """
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            part = getattr(self, name)
            if any(isinstance(mark, Later) and mark.value == part for mark in field.metadata):
                del values[name]
            elif isinstance(part, Frozen):
                values[name] = part.identity()
        return values
