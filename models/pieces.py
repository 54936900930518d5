"""Digests of the pieces of whole blobs, so that a part can be checked without reading the rest."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

PIECE_BYTES = 1 << 20

Digests = tuple[bytes, ...]
"""SHA-256 of each `PIECE_BYTES` of a blob, in order."""


class Pieces:
    """The piece digests of the blobs read last. Safe to share between threads.

    They come from a pass over all of the blob that agreed with its own digest. That a file has
    changed on the disk is seen by none of its times: so each piece is compared again whenever it
    is read.
    """

    def __init__(self, keep: int = 64) -> None:
        self._keep = keep
        self._known: OrderedDict[str, Digests] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, digest: str, read: Callable[[], Iterable[bytes]]) -> Digests:
        """The digests of a blob's pieces.

        Args:
            read: gives the pieces of all of it, and raises if they do not agree with `digest`;
                called if the blob is not among those kept.
        """
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
                return known
        found = tuple(hashlib.sha256(piece).digest() for piece in read())
        with self._lock:
            self._known[digest] = found
            while len(self._known) > self._keep:
                self._known.popitem(last=False)
        return found
