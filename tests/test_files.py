"""The folder of files that are named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from espalier.format.errors import CorruptPackage
from search.files import FolderFiles


def test_what_was_put_is_found_by_its_digest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights" * 300_000)
    digest = FolderFiles(tmp_path / "store").put(source)
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    again = FolderFiles(tmp_path / "store")
    assert again.path(digest).read_bytes() == source.read_bytes()
    assert again.put(source) == digest
    assert [path.name for path in (tmp_path / "store").iterdir()] == [digest]


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    digest = FolderFiles(tmp_path / "store").put(source)
    (tmp_path / "store" / digest).write_bytes(b"heights")
    with pytest.raises(CorruptPackage, match=f"file {digest} holds"):
        FolderFiles(tmp_path / "store").path(digest)
    with pytest.raises(CorruptPackage, match="there is no file"):
        FolderFiles(tmp_path / "store").path("0" * 64)


def test_a_file_that_changed_after_it_was_verified_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    files = FolderFiles(tmp_path / "store")
    digest = files.put(source)
    files.path(digest).write_bytes(b"weighty")
    with pytest.raises(CorruptPackage, match=f"file {digest} holds"):
        files.path(digest)


def test_a_file_that_went_after_it_was_verified_is_missed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    files = FolderFiles(tmp_path / "store")
    digest = files.put(source)
    files.path(digest).unlink()
    with pytest.raises(CorruptPackage, match="there is no file"):
        files.path(digest)
