"""The files that a step reads and writes: blobs, with local copies of those stored elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from models.blobs import BlobStore, check_file
from models.errors import BlobCorrupt

# A step opens its files by name, some of them minutes after it asked for them: copies that any
# process asked for within this time are taken to be in use.
_IN_USE_S = 600.0


class BlobFiles:
    """Content-addressed files for `search.engine`; of one process.

    Every digest is checked when this process first uses it. Copies of remote blobs share a
    folder with the other processes of the machine; the least recently used give way.
    """

    def __init__(self, store: BlobStore, cache: Path, cache_bytes: int) -> None:
        """Args:
        cache: folder of the copies, made if need be.
        cache_bytes: what they may take, besides the files in use.
        """
        self._store = store
        self._cache = cache
        self._cache_bytes = cache_bytes
        self._checked: set[str] = set()

    def path(self, digest: str) -> Path:
        """A local file with that content; not to be written to.

        Raises:
            BlobMissing: the store has no such blob.
            BlobCorrupt: it has other bytes than it should.
        """
        local = self._store.local_path(digest)
        if local is not None:
            self._check(digest, local)
            return local
        self._cache.mkdir(parents=True, exist_ok=True)
        copy = self._cache / digest
        while True:
            try:
                os.utime(copy)  # before all else, so that it is not evicted meanwhile
                self._check(digest, copy)
            except (FileNotFoundError, BlobCorrupt):  # only the copy, which fetching replaces
                self._store.fetch(digest, copy)
                self._checked.add(digest)
                self._evict()
            else:
                return copy

    def put(self, path: Path) -> str:
        """Store a file's content; returns its digest."""
        return self._store.put_file(path).digest

    def _check(self, digest: str, path: Path) -> None:
        if digest in self._checked:
            return
        check_file(digest, path)
        self._checked.add(digest)

    def _evict(self) -> None:
        copies = []
        for path in self._cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if len(path.name) == 64:
                    copies.append((path, path.stat()))
        used = time.time() - _IN_USE_S
        size = sum(stat.st_size for _, stat in copies)
        for path, stat in sorted(copies, key=lambda copy: copy[1].st_mtime):
            if size <= self._cache_bytes or stat.st_mtime > used:
                return
            path.unlink(missing_ok=True)
            self._checked.discard(path.name)
            size -= stat.st_size
