"""Services for the tests of the workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.redis_server import RedisServer
from models.settings import Settings
from tests.worker.service import Service


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    """Short leases on SQLite; no broker."""
    return Settings(
        home=tmp_path,
        database_url=sqlite_url,
        lease_s=1.5,
        heartbeat_s=0.25,
        sweep_s=0.3,
        stop_grace_s=1.0,
        max_attempts=3,
        retry_delay_s=0.1,
    )


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """A service on SQLite without a broker."""
    made = Service(settings, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def ringing(
    request: pytest.FixtureRequest, settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> Iterator[Service]:
    """A service with Redis, on each kind of database in turn."""
    changes = {"redis_url": redis_server.url}
    if request.param == "postgresql":
        changes["database_url"] = request.getfixturevalue("postgresql_url")
    made = Service(settings.model_copy(update=changes), tmp_path)
    yield made
    made.close()
    assert not made.children(), "a child outlived its worker"
