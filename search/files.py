"""Files by content: how the steps of a job take and leave what is too large for JSON."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Protocol

from espalier.format.errors import CorruptPackage


class Files(Protocol):
    """A store of files that are named by their SHA-256 in hexadecimal."""

    def path(self, digest: str, /) -> Path:
        """A local file with that content, verified; not to be written to.

        Raises:
            CorruptPackage: there is none, or its content is another.
        """
        ...

    def put(self, path: Path, /) -> str:
        """Store a copy of a file's content; its digest."""
        ...


class FolderFiles:
    """A folder with one file a digest, for one process and those after it."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str, /) -> Path:
        path = self._root / digest
        if not path.is_file():
            raise CorruptPackage(f"there is no file {digest} in {self._root}: put it there first")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise CorruptPackage(f"file {digest} holds {found}: delete it and put it again")
        return path

    def put(self, path: Path, /) -> str:
        """Store a copy; it appears under its name only when it is complete."""
        handle, partial = tempfile.mkstemp(dir=self._root, suffix=".partial")
        try:
            digest = hashlib.sha256()
            with path.open("rb") as source, os.fdopen(handle, "wb") as target:
                while block := source.read(1 << 20):
                    digest.update(block)
                    target.write(block)
            Path(partial).replace(self._root / digest.hexdigest())
        finally:
            Path(partial).unlink(missing_ok=True)
        return digest.hexdigest()
