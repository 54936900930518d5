"""Waiting for a job to change without holding a thread or a connection meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import select

from models.database import Database
from models.job import TERMINAL, Job

_LEAST_S, _MOST_S = 0.1, 0.5
"""Pause between two looks: short at first, for changes that follow at once."""

Gone = Callable[[], Awaitable[bool]]


def _version(database: Database, job: str) -> tuple[int, bool]:
    """Number of the job's last event, and whether it is terminal; a deleted one is, at -1."""
    query = select(Job.last_event, Job.state).where(Job.id == job)
    with database.transaction(write=False) as session:
        row = session.execute(query).one_or_none()
    return (-1, True) if row is None else (row.last_event, row.state in TERMINAL)


async def changed(database: Database, job: str, version: int, wait_s: float, gone: Gone) -> bool:
    """Wait until the job's version differs or it is terminal; false if the time is up first.

    Args:
        gone: tells that the client has hung up, which ends the wait.
    """
    end, pause = time.monotonic() + wait_s, _LEAST_S
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left))
        now, terminal = await asyncio.to_thread(_version, database, job)
        if now != version or terminal:
            return True
        if await gone():
            return False
        pause = min(_MOST_S, pause * 1.25)
    return False
