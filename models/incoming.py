"""A blob on its way into the store: written under a temporary name while it is hashed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import BlobCorrupt, BlobTooLarge, BlobUnwritable


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is in the store."""

    digest: str
    size_bytes: int


class Incoming:
    """A blob that is being written, piece by piece; made by `BlobStore.incoming`.

    Args:
        folder: where it lies meanwhile, under `path`.
        publish: moves the complete, synced file of a digest into the store.
        max_bytes: cap on its size.
    Raises:
        BlobUnwritable: the disk is full, say.
    """

    def __init__(
        self, folder: Path, publish: Callable[[Path, str], None], max_bytes: int | None
    ) -> None:
        self._publish = publish
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._size = 0
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix="put-")
        except OSError as error:
            raise self._unwritable(error) from error
        self._file = os.fdopen(descriptor, "wb")
        self.path = Path(name)

    def write(self, data: bytes) -> None:
        """Append to the blob.

        Raises:
            BlobTooLarge: it exceeds its cap.
            BlobUnwritable: the disk is full, say.
        """
        self._size += len(data)
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise BlobTooLarge(
                f"the upload exceeds {self._max_bytes} bytes: send a smaller file, or have the "
                "operator raise ESPALIER_MAX_UPLOAD_BYTES"
            )
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def written(self) -> Stored:
        """What `finish` would publish; all of it can be read at `path`, to be checked first.

        Raises:
            BlobUnwritable: the disk is full, say.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        return Stored(self._hash.hexdigest(), self._size)

    def finish(self, expected: str | None = None) -> Stored:
        """Publish the blob under its digest; calling it is what makes it exist.

        Args:
            expected: the digest that the sender claims.
        Raises:
            BlobCorrupt: the bytes have another digest.
            BlobUnwritable: the disk is full, say.
        """
        digest = self._hash.hexdigest()
        if expected is not None and digest != expected:
            raise BlobCorrupt(
                f"{self._size} bytes arrived with SHA-256 {digest}, but {expected} was announced: "
                "send the file again"
            )
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._publish(self.path, digest)
        except OSError as error:
            raise self._unwritable(error) from error
        return Stored(digest, self._size)

    def discard(self) -> None:
        """Remove what was written; nothing happens after `finish`."""
        with contextlib.suppress(OSError):  # what is buffered does not fit either
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> BlobUnwritable:
        return BlobUnwritable(
            f"a blob of at least {self._size} bytes cannot be stored: {error.strerror or error}. "
            "Free space, or move the store with ESPALIER_BLOBS"
        )
