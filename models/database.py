"""Connections and transactions.

SQLite: write-ahead log, `BEGIN IMMEDIATE` for every transaction that writes, so that writers
queue at the start and never fail half-way; it must lie on a local disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from models.outbox import Outbox
from models.settings import Settings

BUSY_TIMEOUT_MS = 30_000
AWAY = (OperationalError, InterfaceError)
"""What a database raises that is locked, restarting or out of reach: trying again may help."""

RUNG = "espalier.rung"
"""Key in `Session.info` of the units of work to be announced after the commit: a list of ids."""


class Bell(Protocol):
    """Announces work to the workers."""

    def ring(self, work_ids: list[int]) -> bool:
        """Send a message for each; false if the broker did not take them."""
        ...


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    path = make_url(url).database
    if path:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("espalier_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Database:
    """The record. Safe to share between threads, not across a fork."""

    def __init__(self, url: str, *, bell: Bell | None = None) -> None:
        """Connects when first used.

        Args:
            url: as `Settings.database` gives it.
            bell: rung after each commit that made work; without it, the reaper rings.
        """
        self.engine = _engine(url)
        self._writing = self.engine.execution_options(espalier_write=True)
        self._bell = bell

    @classmethod
    def of(cls, settings: Settings, *, bell: Bell | None = None) -> Database:
        """The database that the settings name."""
        return cls(settings.database, bell=bell)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        Rows stay readable after the commit. Work that the block made is announced after the
        commit; what the broker does not take stays in the outbox.
        """
        written: list[int] = []
        engine = self._writing if write else self.engine
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
            rung: list[int] = session.info.get(RUNG, [])
            if rung:
                rows = [{"work_id": work_id} for work_id in rung]
                written += session.scalars(insert(Outbox).returning(Outbox.id), rows)
        if written and self._bell is not None and self._bell.ring(rung):
            self._sent(written)

    def _sent(self, written: list[int]) -> None:
        """Delete outbox rows; should that fail, the reaper sends their messages once more."""
        try:
            with Session(self._writing) as session, session.begin():
                session.execute(delete(Outbox).where(Outbox.id.in_(written)))
        except AWAY:
            structlog.get_logger().warning("outbox.kept", rows=len(written))

    def dispose(self) -> None:
        """Close the connections."""
        self.engine.dispose()
