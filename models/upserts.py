"""Inserts that say what becomes of a row that is there already."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from models.base import Base


def insert_into(session: Session, rows: type[Base]) -> PostgresqlInsert | SqliteInsert:
    """An insert with `on_conflict_do_nothing` and `on_conflict_do_update`, in either dialect."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql_insert(rows)
    return sqlite_insert(rows)
