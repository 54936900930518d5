"""Versions of the format: a package says the lowest whose readers understand it.

1: what the first release wrote.
2: paths of any name (`block-1`), parameters that are not trained (`frozen`), tensors that the
   original's `state_dict` does not have (`persistent`), notes in the manifest.

Additions are written only where they say something, so most packages stay what readers of
version 1 know; a reader takes every version up to its own.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from typing import Literal

from espalier.format.ir import Graph

Version = Literal[1, 2]

_FIRST_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}|0|[1-9][0-9]{0,5}", re.ASCII)


def version_of(graph: Graph, notes: Sequence[str]) -> Version:
    """The lowest version that can say all this."""
    plain = all(map(_plain, (*graph.modules, *graph.stored)))
    usual = not any(item.frozen or not item.persistent for item in graph.stored.values())
    return 1 if plain and usual and not notes else 2


def _plain(path: str) -> bool:
    names = path.split(".")
    return len(path) <= 512 and all(
        _FIRST_NAMES.fullmatch(name) and not keyword.iskeyword(name) and name[:2] != "__"
        for name in names
    )
