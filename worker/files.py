"""The files that a step reads and writes: blobs, with local copies of those stored elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from models.blobs import BlobStore, check_file
from models.errors import BlobCorrupt, BlobUnwritable
from models.private import FOLDER

# A step opens its files by name, some of them minutes after it asked for them: copies that any
# process asked for within this time are taken to be in use.
_IN_USE_S = 600.0


class BlobFiles:
    """Content-addressed files for `search.engine`; of one process.

    A file is compared with its digest whenever it is asked for, which is when it is read: a bit
    that flips on the disk shows in no time or size. Copies of remote blobs share a folder with
    the other processes of the machine; the least recently used give way.
    """

    def __init__(self, store: BlobStore, cache: Path, cache_bytes: int) -> None:
        """Files of that store.

        Args:
            cache: folder of the copies, made if need be.
            cache_bytes: what they may take, besides the files in use.
        """
        self._store = store
        self._cache = cache
        self._cache_bytes = cache_bytes

    def path(self, digest: str) -> Path:
        """A local file with that content; not to be written to.

        Raises:
            BlobMissing: the store has no such blob.
            BlobCorrupt: it has other bytes than it should.
            BlobUnwritable: there is no room for a copy.
        """
        local = self._store.local_path(digest)
        if local is not None:
            check_file(digest, local)
            return local
        self._cache.mkdir(FOLDER, parents=True, exist_ok=True)
        copy = self._cache / digest
        try:
            os.utime(copy)  # before all else, so that it is not evicted meanwhile
            check_file(digest, copy)
        except (FileNotFoundError, BlobCorrupt):  # only the copy, which fetching replaces
            self._fetch(digest, copy)
        return copy

    def put(self, path: Path) -> str:
        """Store a file's content; returns its digest."""
        return self._store.put_file(path).digest

    def _fetch(self, digest: str, copy: Path) -> None:
        """Copy a blob from the store; where there is no room, unused copies make it."""
        try:
            self._store.fetch(digest, copy)
        except BlobUnwritable:
            self._evict(0)
            self._store.fetch(digest, copy)
        self._evict(self._cache_bytes)

    def _evict(self, most_bytes: int) -> None:
        copies = []
        for path in self._cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if len(path.name) == 64:
                    copies.append((path, path.stat()))
        used = time.time() - _IN_USE_S
        size = sum(stat.st_size for _, stat in copies)
        for path, stat in sorted(copies, key=lambda copy: copy[1].st_mtime):
            if size <= most_bytes or stat.st_mtime > used:
                return
            path.unlink(missing_ok=True)
            size -= stat.st_size
