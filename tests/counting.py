"""Work in function calls, which are the same on every machine and beside any other process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Counter:
    """Calls of functions, written in Python or in C, by this thread."""

    calls = 0

    def profile(self, _frame: FrameType, event: str, _arg: object) -> None:
        self.calls += event in ("call", "c_call")


@contextmanager
def counting() -> Iterator[Counter]:
    """Counts the calls made within it.

    One call may stand for a loop in C over a whole array: bound the memory (`tracemalloc`) too.
    """
    counter, before = Counter(), sys.getprofile()
    sys.setprofile(counter.profile)
    try:
        yield counter
    finally:
        sys.setprofile(before)
