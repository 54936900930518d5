"""What docs/metrics.md documents, and what fields a real `metrics.json` has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.export.words import COSTS, METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
PATHS = re.compile(r"`([^`]+)`")
KINDS: dict[str, str] = dict.fromkeys(METRICS, "<metric>") | dict.fromkeys(COSTS, "<cost>")
OF_A_SEARCH = {
    "holdout.untuned.solved_on", "uniform.holdout.solved_on", "points[].trial", "points[].score",
    "points[].cost.<cost>",
}  # fmt: skip
"""Fields of jobs that solved for weights, and that left further networks."""
SELDOM = {"finetuning[].diverged", "warnings[].code", "warnings[].message"}
"""Fields that depend on what happened; little time saved is warned of on some machines."""


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all leaves; an empty list has none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = KINDS.get(str(key), str(key))
            yield from fields(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")
    else:
        yield path


def documented() -> list[str]:
    """The paths in the first column of the page's tables."""
    cells = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    return [path for cell in cells for path in PATHS.findall(cell)]
