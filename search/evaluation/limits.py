"""What a dataset from a stranger may take, in proportion to its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from search.evaluation.errors import DatasetTooLarge

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class DataLimits:
    """What a dataset may take.

    What a file unpacks to is bounded three times over: the members of its archive, the images that
    are decoded from them, and the arrays that are kept of it. Each stays below `max_bytes`, and
    below `free_bytes` plus `max_ratio` times the file's own bytes: work and memory are in
    proportion to what was sent.

    Attributes:
        max_bytes: unpacked, however large the file is.
        free_bytes: unpacked, however small the file is; small constant arrays compress without
            bound.
        max_ratio: unpacked to packed bytes beyond that.
        max_files: members of an archive.
        max_arrays: of an `.npz` or safetensors file.
        max_header_bytes: of a safetensors file.
        max_path: characters of a path in an archive.
        max_pixels: of one image.
        max_image_bytes: of one image's file.
        max_classes: names of classes.
        max_name: characters of one.
        max_names_bytes: of all of them, as UTF-8.
    """

    max_bytes: int = 4 * GIB
    free_bytes: int = 64 * MIB
    max_ratio: int = 200
    max_files: int = 500_000
    max_arrays: int = 16
    max_header_bytes: int = 4 * MIB
    max_path: int = 1000
    max_pixels: int = 2**26
    max_image_bytes: int = 64 * MIB
    max_classes: int = 100_000
    max_name: int = 200
    max_names_bytes: int = MIB

    def unpacked_bytes(self, path: Path) -> int:
        """The most that the file at `path` may unpack to."""
        return min(self.max_bytes, self.free_bytes + self.max_ratio * path.stat().st_size)

    def check_unpacked(self, path: Path, total: int, what: str) -> None:
        """Refuse what would take more.

        Args:
            what: takes `total` bytes; the subject of the message.
        Raises:
            DatasetTooLarge: it does.
        """
        limit = self.unpacked_bytes(path)
        if total <= limit:
            return
        if limit == self.max_bytes:
            raise DatasetTooLarge(
                f"{what} {total} bytes, above the limit of {limit}: keep fewer or smaller examples"
            )
        raise DatasetTooLarge(
            f"{what} {total} bytes, above the limit of {limit} for the file's size ("
            f"{self.max_ratio} times as much and {self.free_bytes // MIB} MiB): store the data "
            "with less compression"
        )


LIMITS = DataLimits()
