"""Connections and transactions.

SQLite: write-ahead log, `BEGIN IMMEDIATE` for every transaction that writes, so that writers
queue at the start and never fail half-way; it must lie on a local disk. Transactions that only read
have connections of their own: however many writers wait for a lock, a reader does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import (
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    delete,
    event,
    insert,
    make_url,
)
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from models.logs import get_logger
from models.outbox import Outbox
from models.private import FILE, FOLDER
from models.settings import Settings
from models.stored_json import dumps, loads

PATIENCE_S = 30.0
AWAY = (OperationalError, InterfaceError, PoolTimeout)
"""What a database raises that is locked, full, read-only, restarting or out of reach: trying again
may help. `models.waiting` says which in words."""

_JSON: dict[str, Any] = {"json_serializer": dumps, "json_deserializer": loads}
_BRIEFLY_MS = 100  # as long as other processes' transactions take
_READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction

RUNG = "espalier.rung"
"""Key in `Session.info` of the units of work to be announced after the commit: a list of ids."""


class Bell(Protocol):
    """Announces work to the workers."""

    def ring(self, work_ids: list[int]) -> bool:
        """Send a message for each; false if the broker did not take them."""
        ...


def _engine(url: str, patience_s: float, *, writes: bool) -> Engine:
    if url.startswith("sqlite"):
        return _sqlite(url, patience_s, writes=writes)
    engine = create_engine(url, pool_pre_ping=True, pool_timeout=patience_s, **_JSON)

    @event.listens_for(engine, "handle_error", retval=True)
    def _read_only(context: ExceptionContext) -> BaseException | None:
        """Take it for an outage; to the driver it is an internal error, as of a wrong statement."""
        error = context.original_exception
        if getattr(error, "sqlstate", None) == _READ_ONLY:
            return OperationalError(context.statement, None, error)
        return None

    return engine


def _sqlite(url: str, patience_s: float, *, writes: bool) -> Engine:
    path = make_url(url).database
    if path:
        Path(path).absolute().parent.mkdir(FOLDER, parents=True, exist_ok=True)
    engine = create_engine(url, pool_timeout=patience_s, **_JSON)
    patience_ms = round(1000 * patience_s)
    lock = _Lock(patience_ms)

    @event.listens_for(engine, "do_connect")
    def _create(*_: Any) -> None:
        """Create the file as its owner's alone; SQLite gives those beside it the same rights."""
        if path and not Path(path).exists():
            Path(path).touch(FILE)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself
        for pragma in (
            f"busy_timeout = {patience_ms}",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if writes:
            lock.take(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


class _Lock:
    """SQLite's lock for writing, as the transactions of one process take it.

    The first that waits in vain for as long as is allowed finds it stuck; those after it fail
    almost at once, until one gets it. So threads do not pile up behind another process.
    """

    def __init__(self, patience_ms: int) -> None:
        self._patience_ms = patience_ms
        self._stuck = False

    def take(self, connection: Connection) -> None:
        """Begin a transaction that writes. Raises: OperationalError if others hold the lock."""
        timeout_ms = min(_BRIEFLY_MS, self._patience_ms) if self._stuck else self._patience_ms
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {timeout_ms}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            self._stuck = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            raise
        self._stuck = False


class Database:
    """The record. Safe to share between threads, not across a fork."""

    def __init__(
        self, url: str, *, bell: Bell | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Connects when first used.

        Args:
            url: as `Settings.database` gives it.
            bell: rung after each commit that made work; without it, the reaper rings.
            patience_s: how long a transaction waits for a connection, and for SQLite's lock.
        """
        self.engine = _engine(url, patience_s, writes=False)
        self.writing = _engine(url, patience_s, writes=True)
        self._bell = bell

    @classmethod
    def of(
        cls, settings: Settings, *, bell: Bell | None = None, patience_s: float = PATIENCE_S
    ) -> Database:
        """The database that the settings name."""
        return cls(settings.database, bell=bell, patience_s=patience_s)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        Rows stay readable after the commit. Work that the block made is announced after the
        commit; what the broker does not take stays in the outbox.
        """
        written: list[int] = []
        engine = self.writing if write else self.engine
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
            with Session(self.writing) as session, session.begin():
                session.execute(delete(Outbox).where(Outbox.id.in_(written)))
        except AWAY:
            get_logger().warning("outbox.kept", rows=len(written))

    def dispose(self) -> None:
        """Close the connections."""
        self.engine.dispose()
        self.writing.dispose()
