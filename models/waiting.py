"""Faults of the machine that pass: no room on a disk, a store or database that takes no writes.

Work that meets one is not to blame: it counts as no attempt, waits, says what for, and goes on
when the fault has passed. Which errors are meant is told from their numbers and types, here alone.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.database import AWAY
from models.errors import BlobUnreachable, BlobUnwritable

_DISK = {
    errno.ENOSPC: "no room left",
    errno.EDQUOT: "no room left within the quota",
    errno.EROFS: "mounted read-only",
}
_SQLITE = {
    sqlite3.SQLITE_FULL: "no room left",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_BUSY: "another process holds its lock",
}
_POSTGRESQL = {
    "53100": "no room left",  # disk_full
    "25006": "read-only",  # read_only_sql_transaction
}


def waits_for(error: BaseException) -> str | None:
    """What has to pass before the work that met this error can go on.

    Returns:
        A line for users, without paths or addresses, as "disk: no room left (temporary files)";
        `None` if the error is not of this kind.
    """
    place = "temporary files"
    for cause in _causes(error):
        if isinstance(cause, BlobUnreachable):
            return "blob store: it does not answer"
        if isinstance(cause, BlobUnwritable):
            place = cause.place
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return f"disk: {_DISK[cause.errno]} ({place})"
        if isinstance(cause, AWAY):
            outage = _outage(cause)
            return None if outage is None else f"database: {outage}"
    return None


def _outage(error: BaseException) -> str | None:
    """Why the database takes nothing now; `None` if the statement is at fault."""
    if isinstance(error, PoolTimeout):
        return "every connection is in use"
    cause = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # without the details
    if code == sqlite3.SQLITE_ERROR:
        return None
    state = getattr(cause, "sqlstate", None) or ""
    return _SQLITE.get(code) or _POSTGRESQL.get(state) or "it does not answer"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
