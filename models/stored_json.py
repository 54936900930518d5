"""JSON columns as text, in which everything can be stored, shown and sent.

SQLite takes any text, PostgreSQL refuses NUL and halves of surrogate pairs, and of these no answer
can be made: one row of them would break every list that it is in. What comes from users was
checked before; here nothing else gets in, and what is in already comes out.
"""

from __future__ import annotations

import json
from typing import Any

from espalier.text import mended


def dumps(value: Any) -> str:
    """The value's text, with U+FFFD for each character that cannot be stored."""
    text = json.dumps(value)
    return json.dumps(mended(value)) if _doubtful(text) else text


def loads(text: str | bytes) -> Any:
    """The value, with U+FFFD for each character that cannot be stored."""
    plain = text.decode() if isinstance(text, bytes) else text
    found = json.loads(plain)
    return mended(found) if _doubtful(plain) else found


def _doubtful(text: str) -> bool:
    """Whether there may be such a character: JSON in ASCII has them as `\\u0000`, `\\ud800`."""
    return r"\u0000" in text or r"\ud" in text or r"\uD" in text
