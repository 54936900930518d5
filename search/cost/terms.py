"""How much the cost of one network may take to count: refused before it is done, not after.

A product of sizes has as many terms as the product of their numbers of terms, and a file of 100 KB
can ask for billions.
"""

from __future__ import annotations

from espalier.format.errors import EspalierError

TERMS = 500_000
"""Terms that one cost model may multiply, add and compare, about a microsecond each. DenseNet-264,
which joins the most groups, needs 140,190; ResNet-1202 46,726; EfficientNet-B7 and ViTs 10,000."""

ENTRIES = 4_000_000
"""Entries of one table of coefficients, 8 bytes each; ResNet-1202, with 603 groups, needs
730,000."""


class NetworkTooLarge(EspalierError):
    """A network whose cost cannot be counted exactly, or takes too much to count."""

    code = "cost.too_large"


class Terms:
    """Counts what one cost model takes.

    Attributes:
        spent: terms so far.
        entries: of all tables of coefficients.
    """

    def __init__(self, limit: int = TERMS, entries: int = ENTRIES) -> None:
        self.spent = 0
        self.entries = 0
        self._limit = limit
        self._largest = entries

    def spend(self, count: int) -> None:
        """Account for terms before they are computed.

        Raises:
            NetworkTooLarge: with them there are more than the limit.
        """
        self.spent += count
        if self.spent > self._limit:
            raise NetworkTooLarge(
                f"the cost of the network takes {self.spent} terms or more, above the limit of "
                f"{self._limit}: use fewer layers, keep fewer tensors alive at once, or do not "
                "multiply channels of many layers with each other"
            )

    def table(self, rows: int, columns: int) -> None:
        """Account for a table of coefficients.

        Raises:
            NetworkTooLarge: it has too many entries.
        """
        self.entries += rows * columns
        if rows * columns > self._largest:
            raise NetworkTooLarge(
                f"the cost of the network takes a table of {rows} x {columns} coefficients, above "
                f"the limit of {self._largest}: use a network with fewer channel groups"
            )
