"""The blob store: whole or not at all, and never other bytes than the digest says."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from obstore.store import MemoryStore, S3Store
from sqlalchemy import select

from models.blob import Blob
from models.blobs import BlobStore, check_file, key_of
from models.database import Database
from models.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobTooLarge,
    BlobUnreachable,
    BlobUnwritable,
)
from models.pieces import PIECE_BYTES
from models.references import collect, release, retain
from models.waiting import waits_for
from worker.files import BlobFiles


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, folder: Path) -> BlobStore:
    """A local folder, and an object store as S3 is one."""
    if request.param == "local":
        return BlobStore.open(f"file://{folder}")
    return BlobStore(MemoryStore(), None)


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), size=st.sampled_from([0, 1, 1000, PIECE_BYTES, 2 * PIECE_BYTES + 17]))
def test_what_is_put_is_read(store: BlobStore, data: st.DataObject, size: int) -> None:
    content = random.Random(size).randbytes(size)
    cut = data.draw(st.integers(0, size))
    stored = store.put([content[:cut], content[cut:]])
    assert (stored.digest, stored.size_bytes) == (_digest(content), size)
    assert store.size_bytes(stored.digest) == size
    assert b"".join(store.read(stored.digest)) == content
    start, end = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size + 10))))
    assert b"".join(store.read(stored.digest, start, end)) == content[start:end]


def test_a_blob_over_its_cap_is_refused_before_it_is_all_read(
    store: BlobStore, folder: Path
) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1000

    with pytest.raises(BlobTooLarge, match="exceeds 2500 bytes"):
        store.put(endless(), max_bytes=2500)
    assert taken == 3
    assert not _files(folder)
    assert store.put([b"x" * 2500], max_bytes=2500).size_bytes == 2500


def test_an_announced_digest_must_hold(store: BlobStore, folder: Path) -> None:
    with pytest.raises(BlobCorrupt, match="was announced"):
        store.put([b"these"], expected=_digest(b"those"))
    assert not _files(folder)
    with pytest.raises(BlobMissing):
        store.size_bytes(_digest(b"these"))


def test_an_interrupted_upload_leaves_nothing(store: BlobStore, folder: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(broken())
    assert not _files(folder)
    assert list(store.older_than(0)) in ([], [[]])


def test_a_remote_store_that_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    """Whatever is asked of it; the error does not show its address."""
    remote = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        access_key_id="key",
        secret_access_key="secret",  # noqa: S106
        region="nowhere",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
    )
    store, digest = BlobStore(remote, None), _digest(b"blob")
    for ask in (
        lambda: store.put([b"blob"]),
        lambda: store.size_bytes(digest),
        lambda: list(store.read(digest)),
        lambda: list(store.older_than(0)),
        lambda: BlobFiles(store, tmp_path / "cache", 2**20).path(digest),
    ):
        with pytest.raises(BlobUnreachable) as caught:
            ask()
        assert waits_for(caught.value) == "blob store: it does not answer"
        assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("when", ["open", "write", "fsync", "rename"])
def test_a_full_disk_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store = BlobStore.open(f"file://{folder}")
    kept = store.put([b"kept"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def on_a_full_disk(descriptor: int, _mode: str) -> BinaryIO:
        os.close(descriptor)
        return Path("/dev/full").open("wb")

    with monkeypatch.context() as patch:
        if when == "open":
            patch.setattr(tempfile, "mkstemp", full)
        elif when == "write":
            patch.setattr(os, "fdopen", on_a_full_disk)
        elif when == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, "replace", full)
        with pytest.raises(BlobUnwritable, match="No space left on device") as caught:
            store.put([b"too much"] * 10_000)
    assert waits_for(caught.value) == "disk: no room left (blob store)"
    assert {path.read_bytes() for path in _files(folder)} == {b"kept"}
    assert b"".join(store.read(kept.digest)) == b"kept"


@pytest.mark.parametrize("harm", ["flipped", "truncated", "longer"])
def test_damage_is_noticed(folder: Path, tmp_path: Path, harm: str) -> None:
    store = BlobStore.open(f"file://{folder}")
    content = os.urandom(PIECE_BYTES + 1000)
    stored = store.put([content])
    path = folder / key_of(stored.digest)
    damaged = {
        "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:],
        "truncated": content[:-1],
        "longer": content + b"x",
    }[harm]
    path.write_bytes(damaged)
    with pytest.raises(BlobCorrupt, match="is damaged"):
        list(store.read(stored.digest))
    with pytest.raises(BlobCorrupt):
        store.fetch(stored.digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob("fetch-*"))
    with pytest.raises(BlobCorrupt):
        BlobFiles(store, tmp_path / "cache", 2**30).path(stored.digest)
    store.put([content])  # storing it again heals it
    assert b"".join(store.read(stored.digest)) == content


def _flip(store: BlobStore, digest: str, at: int) -> None:
    """Change one bit of a stored blob, as a failing disk does: neither size nor times differ."""
    path = store.local_path(digest)
    if path is None:
        content = bytearray(obstore.get(store._store, key_of(digest)).bytes())
        content[at] ^= 1
        obstore.put(store._store, key_of(digest), bytes(content))
        return
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_no_part_of_a_damaged_blob_is_given_out(store: BlobStore) -> None:
    content = os.urandom(3 * PIECE_BYTES + 10)
    digest = store.put([content]).digest
    _flip(store, digest, 2 * PIECE_BYTES + 5)
    for start, end in ((0, 10), (2 * PIECE_BYTES, 2 * PIECE_BYTES + 10), (5, None)):
        with pytest.raises(BlobCorrupt, match="is damaged"):
            store.read(digest, start, end)


def test_a_part_is_checked_again_after_the_whole_was_right(store: BlobStore) -> None:
    """And the rest, which is not asked for, is not read again."""
    content = os.urandom(3 * PIECE_BYTES + 10)
    digest = store.put([content]).digest
    assert b"".join(store.read(digest, 7)) == content[7:]
    _flip(store, digest, PIECE_BYTES + 5)
    read: list[bytes] = []
    with pytest.raises(BlobCorrupt, match="is damaged"):
        read.extend(store.read(digest, PIECE_BYTES - 3, 2 * PIECE_BYTES))
    assert b"".join(read) == content[PIECE_BYTES - 3 : PIECE_BYTES]
    start = 2 * PIECE_BYTES + 1
    assert b"".join(store.read(digest, start)) == content[start:]


def test_a_file_is_checked_whenever_it_is_asked_for(store: BlobStore, tmp_path: Path) -> None:
    """By the same process; a copy that a disk has damaged is fetched again."""
    content = os.urandom(1000)
    digest = store.put([content]).digest
    files = BlobFiles(store, tmp_path / "cache", 2**30)
    path = files.path(digest)
    assert path.read_bytes() == content
    damaged = bytes([content[0] ^ 1]) + content[1:]
    path.write_bytes(damaged)
    if store.local_path(digest) is None:
        assert files.path(digest).read_bytes() == content
        return
    with pytest.raises(BlobCorrupt, match="is damaged"):
        files.path(digest)


@pytest.mark.parametrize("name", ["", "../" * 20, "sha256/" + "a" * 57, "A" * 64, "é" * 64])
def test_only_digests_are_names(store: BlobStore, name: str) -> None:
    with pytest.raises(BlobMissing):
        list(store.read(name))


@pytest.mark.parametrize("url", ["ftp://x/y", "file://host/folder", "folder"])
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give file:///FOLDER or s3://BUCKET/PREFIX"):
        BlobStore.open(url)


def test_what_nobody_uses_is_deleted_after_its_grace(database: Database, store: BlobStore) -> None:
    used, unused, unnamed = (store.put([name]).digest for name in (b"used", b"unused", b"unnamed"))
    with database.transaction() as session:
        for digest in (used, used, unused):
            retain(session, digest, 4)
        for digest in (used, unused):
            release(session, digest)
    assert collect(database, store, grace_s=60.0) == 0
    assert collect(database, store, grace_s=0.0) == 2
    assert b"".join(store.read(used)) == b"used"
    for digest in (unused, unnamed):
        with pytest.raises(BlobMissing):
            store.size_bytes(digest)
    with database.transaction(write=False) as session:
        assert session.scalars(select(Blob.digest)).all() == [used]


def test_storing_again_renews_the_age(database: Database, folder: Path) -> None:
    store = BlobStore.open(f"file://{folder}")
    digest = store.put([b"blob"]).digest
    os.utime(folder / key_of(digest), (0, 0))
    left_over = folder / "tmp" / "put-crashed"
    left_over.write_bytes(b"half")
    os.utime(left_over, (0, 0))
    store.put([b"blob"])
    assert collect(database, store, grace_s=60.0) == 0
    assert not left_over.exists()
    os.utime(folder / key_of(digest), (0, 0))
    assert collect(database, store, grace_s=60.0) == 1


def test_copies_of_remote_blobs_are_checked_and_bounded(tmp_path: Path) -> None:
    store = BlobStore(MemoryStore(), None)
    contents = [bytes([number]) * 1000 for number in range(4)]
    digests = [store.put([content]).digest for content in contents]
    cache = tmp_path / "cache"
    files = BlobFiles(store, cache, 2500)
    for digest, content in zip(digests, contents, strict=True):
        assert files.path(digest).read_bytes() == content
        os.utime(cache / digest, (digests.index(digest), digests.index(digest)))
    assert sum(path.stat().st_size for path in cache.iterdir()) <= 2500
    assert files.path(digests[0]).read_bytes() == contents[0]  # fetched again
    (cache / digests[0]).write_bytes(b"damaged")
    assert BlobFiles(store, cache, 2500).path(digests[0]).read_bytes() == contents[0]
    new = tmp_path / "new"
    new.write_bytes(b"new")
    assert b"".join(store.read(files.put(new))) == b"new"


def test_copies_that_another_process_uses_are_not_evicted(tmp_path: Path) -> None:
    store = BlobStore(MemoryStore(), None)
    digests = [store.put([bytes([number]) * 1000]).digest for number in range(3)]
    cache = tmp_path / "cache"
    used, old, new = (cache / digest for digest in digests)
    other = BlobFiles(store, cache, 1500)
    other.path(used.name)
    other.path(old.name)
    os.utime(old, (0, 0))
    os.utime(used, (0, 0))
    other.path(used.name)  # asked for again, after a while
    BlobFiles(store, cache, 1500).path(new.name)
    assert (used.exists(), old.exists(), new.exists()) == (True, False, True)


def test_a_copy_that_another_process_evicts_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(MemoryStore(), None)
    digest = store.put([b"content"]).digest
    cache = tmp_path / "cache"
    BlobFiles(store, cache, 2500).path(digest)
    (cache / ("0" * 64)).symlink_to("gone")  # listed, but gone when it is looked at

    def evicted(digest: str, path: Path) -> None:
        path.unlink()
        check_file(digest, path)

    monkeypatch.setattr("worker.files.check_file", evicted)
    assert BlobFiles(store, cache, 2500).path(digest).read_bytes() == b"content"


def test_copies_make_room_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(MemoryStore(), None)
    old, new = (store.put([bytes([number]) * 1000]).digest for number in range(2))
    cache = tmp_path / "cache"
    files = BlobFiles(store, cache, 2**30)
    os.utime(files.path(old), (0, 0))
    fetch = store.fetch

    def full(digest: str, path: Path) -> None:
        if (cache / old).exists():
            raise BlobUnwritable("no space left")
        fetch(digest, path)

    monkeypatch.setattr(store, "fetch", full)
    assert files.path(new).read_bytes() == b"\x01" * 1000
    assert not (cache / old).exists()


def test_a_blob_stored_again_during_the_collection_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore.open(f"file://{tmp_path}")
    digest = store.put([b"content"]).digest
    path = store.local_path(digest)
    assert path is not None
    os.utime(path, (0, 0))
    listed = [found for batch in store.older_than(60) for found in batch]
    assert listed == [digest]
    head = obstore.head

    def stored_again(*given: Any) -> Any:
        """By an upload that comes right after the collector looked."""
        seen = head(*given)
        store.put([b"content"])
        return seen

    monkeypatch.setattr(obstore, "head", stored_again)
    assert not store.delete_older(digest, 60)
    monkeypatch.undo()
    assert b"".join(store.read(digest)) == b"content"
    os.utime(path, (0, 0))
    assert store.delete_older(digest, 60)
    assert store.local_path(digest) is None
    assert not store.delete_older(digest, 60)
    assert not list(store.temporary.iterdir())
