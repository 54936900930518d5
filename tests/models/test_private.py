"""What the service writes is its owner's alone, whatever the umask; what was open is closed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from models import private
from models.blobs import BlobStore
from models.database import Database
from models.settings import Settings
from worker.files import BlobFiles


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _open_to_others(root: Path) -> list[str]:
    found = [root, *root.rglob("*")]
    return [f"{path} {path.stat().st_mode:o}" for path in found if path.stat().st_mode & 0o077]


def test_what_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    database = Database.of(settings)
    store = BlobStore.open(settings.blob_url)
    digest = store.put([b"content"]).digest
    with database.transaction() as session:
        session.execute(text("create table rows (id integer)"))
        remote = BlobStore.open(f"file://{tmp_path / 'remote'}")
        remote.put([b"content"])
        remote._folder = None  # as if it were one
        BlobFiles(remote, settings.cache_folder, 2**20).path(digest)
        names = {path.name for path in settings.home.rglob("*")}
        assert {"espalier.db", "espalier.db-wal", "espalier.db-shm", digest} <= names
        assert not _open_to_others(settings.home)
    database.dispose()


def test_what_was_open_is_closed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(home=tmp_path / "home", blobs=f"file://{tmp_path / 'blobs'}")
    settings.home.mkdir()
    (tmp_path / "blobs").mkdir()
    record = settings.home / "espalier.db"
    record.touch()
    private.tighten(settings)
    assert not _open_to_others(settings.home)
    assert not _open_to_others(tmp_path / "blobs")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert capsys.readouterr().out.count("private.tightened") == 3
    private.tighten(settings)
    assert not capsys.readouterr().out


def test_folders_of_all_users_stay_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "shared"
    home.mkdir()
    home.chmod(0o1777)
    private.tighten(Settings(home=home))
    assert stat.S_IMODE(home.stat().st_mode) == 0o1777
    assert "private.open_to_others" in capsys.readouterr().out


def test_temporary_files_stay_in_their_folder_though_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    private.begin()
    assert tempfile.gettempdir() == str(tmp_path)
    assert os.umask(0o022) == 0o077
