"""Text that every database stores and every client can be shown.

Unicode strings of Python may hold halves of surrogate pairs, which UTF-8 does not have (RFC 3629,
section 3), and NUL, which PostgreSQL refuses; names should hold no other control character either.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def unfit(name: str) -> str | None:
    """What of a name can be neither stored nor shown, for a message; `None` if all can."""
    if name.isprintable():
        return None
    for char in name:
        kind = unicodedata.category(char)
        if kind == "Cc":
            return f"a control character (U+{ord(char):04X})"
        if kind == "Cs":
            return f"half of a surrogate pair (U+{ord(char):04X})"
    return None


def _checked(name: str) -> str:
    if fault := unfit(name):
        raise ValueError(f"it holds {fault}: leave it out")
    return name


Line = Annotated[str, AfterValidator(_checked)]
"""A name of anything, in pydantic's models."""


def storable(value: Any) -> bool:
    """Whether a JSON value has only text that can be stored."""
    if isinstance(value, str):
        return _UNSTORABLE.search(value) is None
    if isinstance(value, dict):
        return all(storable(key) and storable(each) for key, each in value.items())
    return all(map(storable, value)) if isinstance(value, list | tuple) else True


def mended(value: Any) -> Any:
    """A JSON value with U+FFFD for each character that cannot be stored."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {mended(key): mended(each) for key, each in value.items()}
    return [mended(each) for each in value] if isinstance(value, list | tuple) else value
