"""Structured logs whose lines are lost, and nothing else, where the log's disk is full."""

from __future__ import annotations

import contextlib
from typing import Any

import structlog


class _Printer(structlog.PrintLogger):
    """Prints; a line that cannot be written is not worth the work that would end by its error."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def get_logger() -> Any:
    """A logger for events with facts, as `structlog.get_logger` gives it."""
    return structlog.wrap_logger(_Printer())
