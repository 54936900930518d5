"""Databases without tables, one of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path / 'new.db'}")
    return Database(request.getfixturevalue("empty_postgresql_url"))
