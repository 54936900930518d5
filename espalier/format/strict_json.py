"""JSON from strangers: no duplicate keys, no NaN, no enormous numbers, no endless nesting."""

from __future__ import annotations

import json
from typing import Any

from espalier.format.errors import FormatError, LimitExceeded
from espalier.text import storable

_LARGEST = 2**53


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("a key occurs twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > _LARGEST:
        raise LimitExceeded(f"the integer {text[:20]}... is larger than 2**53")
    return int(text)


def _constant(text: str) -> float:
    raise FormatError(f"{text} is no number in JSON")


def _float(text: str) -> float:
    value = float(text[:400])
    if value in (float("inf"), float("-inf")) or len(text) > 400:
        raise FormatError(f"the number {text[:20]} is out of range")
    return value


def loads(text: str | bytes, *, what: str) -> Any:
    """Parse JSON strictly.

    Args:
        what: the thing parsed, for messages.
    Raises:
        FormatError: not JSON, or one of the things above.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(
            decoded,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except RecursionError:
        raise LimitExceeded(f"{what} is nested too deeply") from None
    except FormatError as error:
        raise type(error)(f"{what}: {error}") from None
    except (ValueError, UnicodeError) as error:
        raise FormatError(f"{what} is not JSON: {error}") from None


def check_texts(value: Any, *, what: str) -> None:
    """Refuse what was parsed if a text in it cannot be stored.

    Raises:
        FormatError: it cannot.
    """
    if not storable(value):
        raise FormatError(f"{what} holds NUL or half of a surrogate pair in a text: leave it out")
