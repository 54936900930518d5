"""The blob store: files named by their SHA-256, in a local folder or in S3.

A blob appears whole or not at all: it is written under a temporary name while it is hashed, then
renamed (local, after an fsync) or uploaded in one atomic put (S3). Readers check what they get.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, S3Store

from models.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnreachable,
    BlobUnwritable,
)
from models.incoming import Incoming, Stored
from models.pieces import PIECE_BYTES, Digests, Pieces
from models.private import FOLDER


def check_file(digest: str, path: Path) -> None:
    """See that a file has the bytes of a blob.

    Raises:
        BlobCorrupt: it has others.
    """
    with path.open("rb") as file:
        _check(digest, hashlib.file_digest(file, "sha256").hexdigest())


def key_of(digest: str) -> str:
    """Where a blob lies in the store.

    Raises:
        BlobMissing: that is no SHA-256, so that no path can be smuggled in.
    """
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise BlobMissing(f"{digest!r} is no SHA-256 in lower-case hex")
    return f"sha256/{digest[:2]}/{digest[2:]}"


class BlobStore:
    """Blobs by digest. Safe to share between threads and processes."""

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        """Use `BlobStore.open`.

        Args:
            folder: where `store` keeps its files, if it is local.
        """
        self._store = store
        self._folder = folder
        self._known = Pieces()
        self.temporary = folder / "tmp" if folder is not None else Path(tempfile.gettempdir())

    @classmethod
    def open(cls, url: str) -> BlobStore:
        """The store at `file://FOLDER` (made if need be) or `s3://BUCKET/PREFIX`.

        S3 takes its credentials, region and endpoint from the usual AWS_ variables.
        """
        parts = urlsplit(url)
        if parts.scheme == "s3":
            return cls(S3Store.from_url(url), None)
        if parts.scheme != "file" or parts.netloc:
            raise ValueError(f"blobs = {url!r}: give file:///FOLDER or s3://BUCKET/PREFIX")
        folder = Path(unquote(parts.path))
        folder.mkdir(FOLDER, parents=True, exist_ok=True)
        for name in ("tmp", "sha256"):
            (folder / name).mkdir(FOLDER, exist_ok=True)
        return cls(LocalStore(folder), folder)

    @contextmanager
    def incoming(self, max_bytes: int | None = None) -> Iterator[Incoming]:
        """Write a blob piece by piece; unless `finish` is called in the block, nothing stays."""
        blob = Incoming(self.temporary, self.publish, max_bytes)
        try:
            yield blob
        finally:
            blob.discard()

    def put(
        self,
        chunks: Iterable[bytes],
        *,
        max_bytes: int | None = None,
        expected: str | None = None,
    ) -> Stored:
        """Store a stream of bytes.

        Args:
            max_bytes: cap on its size.
            expected: the digest that the sender claims.
        Raises:
            BlobTooLarge, BlobCorrupt, BlobUnwritable: nothing was stored.
        """
        with self.incoming(max_bytes) as blob:
            for chunk in chunks:
                blob.write(chunk)
            return blob.finish(expected)

    def put_file(self, path: Path) -> Stored:
        """Store a copy of a file."""
        with path.open("rb") as file:
            return self.put(iter(lambda: file.read(PIECE_BYTES), b""))

    def publish(self, path: Path, digest: str) -> None:
        """Move a complete, synced file of that digest into the store; `Incoming.finish` does."""
        if self._folder is None:
            with _answering():
                obstore.put(self._store, key_of(digest), path)
            path.unlink()
            return
        target = self._folder / key_of(digest)
        target.parent.mkdir(FOLDER, exist_ok=True)
        path.replace(target)  # also if it exists: the age of the file must be renewed
        for folder in (target.parent, target.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def local_path(self, digest: str) -> Path | None:
        """The blob's own file, unchecked, if the store is local and has it."""
        if self._folder is None:
            return None
        path = self._folder / key_of(digest)
        return path if path.is_file() else None

    def size_bytes(self, digest: str) -> int:
        """The size of a blob.

        Raises:
            BlobMissing: there is no such blob.
        """
        try:
            with _answering():
                return obstore.head(self._store, key_of(digest))["size"]
        except FileNotFoundError:
            raise self._missing(digest) from None

    def read(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a blob from `start` to before `end`, in pieces.

        All of a blob is checked against its digest before the last piece is given out. For a part,
        the whole is read and checked first, and each of its pieces before it is given out.

        Raises:
            BlobMissing: before the first piece.
            BlobCorrupt: the store holds other bytes than it should.
        """
        size = self.size_bytes(digest)
        stop = size if end is None else min(end, size)
        if start == 0 and stop == size:
            return self._whole(digest, size)
        known = self._known.of(digest, lambda: self._whole(digest, size))
        return self._part(digest, size, start, stop, known)

    def _whole(self, digest: str, size: int) -> Iterator[bytes]:
        sha256 = hashlib.sha256()
        for offset in range(0, size, PIECE_BYTES):
            piece = self._piece(digest, offset, size)
            sha256.update(piece)
            if offset + PIECE_BYTES >= size:
                _check(digest, sha256.hexdigest())
            yield piece
        if size == 0:
            _check(digest, sha256.hexdigest())

    def _part(
        self, digest: str, size: int, start: int, stop: int, known: Digests
    ) -> Iterator[bytes]:
        """The pieces that a part touches, cut to it; each is compared with the one of `known`."""
        for number in range(start // PIECE_BYTES, -(-stop // PIECE_BYTES)):
            offset = number * PIECE_BYTES
            piece = self._piece(digest, offset, size)
            if number >= len(known) or hashlib.sha256(piece).digest() != known[number]:
                raise BlobCorrupt(_damaged(digest, f"it changed about byte {offset}"))
            yield piece[max(0, start - offset) : stop - offset]

    def _piece(self, digest: str, offset: int, size: int) -> bytes:
        """The `PIECE_BYTES` of a blob that begin there, or what is left of it."""
        try:
            with _answering():
                end = min(offset + PIECE_BYTES, size)
                return bytes(obstore.get_range(self._store, key_of(digest), start=offset, end=end))
        except FileNotFoundError:
            raise self._missing(digest) from None

    def fetch(self, digest: str, path: Path) -> None:
        """Copy a blob to a file, checked; the file appears whole or not at all.

        Raises:
            BlobMissing: there is no such blob.
            BlobCorrupt: the store holds other bytes than it should.
            BlobUnwritable: the disk is full, say.
        """
        temporary: Path | None = None
        try:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix="fetch-")
            temporary = Path(name)
            with os.fdopen(descriptor, "wb") as file:
                for piece in self.read(digest):
                    file.write(piece)
            temporary.replace(path)
        except OSError as error:
            raise BlobUnwritable(
                f"blob {digest} cannot be copied to this machine: {error.strerror or error}. Free "
                "space, or move the copies with ESPALIER_CACHE",
                "copies of blobs",
            ) from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def delete_older(self, digest: str, age_s: float) -> bool:
        """Remove a blob unless it was stored within the last `age_s`; whether it was removed.

        One that is stored again while this goes on stays: a local blob is moved aside, looked at,
        and put back if it is young.
        """
        key, before = key_of(digest), datetime.now(UTC) - timedelta(seconds=age_s)
        try:
            with _answering():
                if obstore.head(self._store, key)["last_modified"] >= before:
                    return False
                if self._folder is None:
                    obstore.delete(self._store, key)
                    return True
            aside = self.temporary / f"put-{digest}"
            (self._folder / key).replace(aside)
        except FileNotFoundError:
            return False
        young = aside.stat().st_mtime >= before.timestamp()
        if young:
            with contextlib.suppress(FileExistsError):  # stored yet again meanwhile
                (self._folder / key).hardlink_to(aside)
        aside.unlink(missing_ok=True)
        return not young

    def older_than(self, age_s: float) -> Iterator[list[str]]:
        """Digests of the blobs that were stored longer ago than that, in batches.

        Temporary files of that age, which a crash has left, are removed.
        """
        before = datetime.now(UTC) - timedelta(seconds=age_s)
        if self._folder is not None:
            for path in self.temporary.glob("put-*"):
                if path.stat().st_mtime < before.timestamp():
                    path.unlink(missing_ok=True)
        with _answering():
            for batch in obstore.list(self._store, prefix="sha256"):
                yield [
                    "".join(meta["path"].split("/")[-2:])
                    for meta in batch
                    if meta["last_modified"] < before
                ]

    @staticmethod
    def _missing(digest: str) -> BlobMissing:
        return BlobMissing(f"there is no blob {digest} in the store: upload the file again")


@contextmanager
def _answering() -> Iterator[None]:
    """Around calls of the store. Raises: BlobUnreachable."""
    try:
        yield
    except (GenericError, PermissionDeniedError, UnauthenticatedError) as error:
        raise BlobUnreachable(
            f"the blob store does not answer ({type(error).__name__}): see that ESPALIER_BLOBS "
            "names it and that its credentials hold"
        ) from error


def _check(expected: str, actual: str) -> None:
    if actual != expected:
        raise BlobCorrupt(_damaged(expected, f"its bytes have SHA-256 {actual}"))


def _damaged(digest: str, how: str) -> str:
    return f"blob {digest} is damaged: {how}. Restore it from a backup, or upload the file again"
