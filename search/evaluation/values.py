"""What an array's numbers are, seen piece by piece: their range, and whether all are finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.evaluation.arrays import Array, Lazy
from search.evaluation.errors import DatasetError


class Values:
    """The least and the greatest of whole numbers, or a count of what float32 does not hold.

    Args:
        lazy: whose pieces pass through `watch`.
    """

    def __init__(self, lazy: Lazy) -> None:
        self._lazy = lazy
        self._low: int | None = None
        self._high: int | None = None
        self._seen = 0
        self._bad = 0
        self._first = 0

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest of whole numbers, of which there is at least one."""
        assert self._low is not None  # noqa: S101
        assert self._high is not None  # noqa: S101
        return self._low, self._high

    def watch(self, pieces: Iterator[Array]) -> Iterator[Array]:
        """The pieces, each looked at on its way.

        Raises:
            DatasetError: after the last one, for NaN, infinities and numbers beyond float32.
        """
        for piece in pieces:
            if piece.dtype.kind == "f":
                self._take_floats(piece)
            elif piece.size:
                low, high = int(piece.min()), int(piece.max())
                self._low = low if self._low is None else min(low, self._low)
                self._high = high if self._high is None else max(high, self._high)
            self._seen += len(piece)
            yield piece
        if self._bad:
            raise DatasetError(
                f"array {self._lazy.name!r} holds NaN, infinity or numbers beyond those of float32 "
                f"(3.4e38), {self._bad} of {self._seen}, the first at index "
                f"{self._lazy.place(self._first)}: remove those examples"
            )

    def _take_floats(self, piece: Array) -> None:
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinity
            good = np.isfinite(piece.astype(np.float32, copy=False))
        bad = len(piece) - int(np.count_nonzero(good))
        if bad and not self._bad:
            self._first = self._seen + int(np.argmin(good))
        self._bad += bad

    def look(self) -> None:
        """Read the whole array, keeping nothing."""
        for _ in self.watch(self._lazy.pieces()):
            pass

    def read(self) -> Array:
        """The whole array, looked at as it is read."""
        return self._lazy.read(self.watch(self._lazy.pieces()))
