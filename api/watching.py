"""Waiting for jobs to change: one query at a time looks after all that anybody waits for.

A long poll or an event stream holds no thread and no connection to the database meanwhile, and a
thousand of them ask the database no more often than one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread
from sqlalchemy import select

from models.database import Database
from models.job import TERMINAL, Job

_PAUSE_S = 0.2
"""Between two looks; longer where a look takes long, so that four fifths of the time are pauses."""
_GONE_S = 1.0  # between two looks at whether the client is still there
_AT_ONCE = 500  # jobs in one query

Gone = Callable[[], Awaitable[bool]]


def _versions(database: Database, jobs: Collection[str]) -> dict[str, tuple[int, bool]]:
    """The number of each job's last event, and whether it is terminal."""
    names, found = sorted(jobs), {}
    for at in range(0, len(names), _AT_ONCE):
        query = select(Job.id, Job.last_event, Job.state)
        with database.transaction(write=False) as session:
            for row in session.execute(query.where(Job.id.in_(names[at : at + _AT_ONCE]))):
                found[row.id] = (row.last_event, row.state in TERMINAL)
    return found


@dataclass(eq=False, slots=True)
class _Waiter:
    job: str
    version: int
    changed: asyncio.Future[None]


class Watch:
    """Who waits for which job; to be used from one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)

    async def changed(self, job: str, version: int, wait_s: float, gone: Gone) -> bool:
        """Wait until the job's version differs, or it is terminal or deleted.

        Args:
            gone: tells that the client has hung up, which ends the wait.
        Returns:
            False if the time is up or the client is gone first.
        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database is away (`models.database.AWAY`).
        """
        waiter = _Waiter(job, version, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        end = time.monotonic() + wait_s
        try:
            while (left := end - time.monotonic()) > 0:
                await asyncio.wait({waiter.changed}, timeout=min(left, _GONE_S))
                if waiter.changed.done():
                    waiter.changed.result()
                    return True
                if await gone():
                    return False
            return False
        finally:
            self._waiters.discard(waiter)
            waiter.changed.cancel()

    async def _look(self) -> None:
        """Look again and again while anybody waits."""
        pause = _PAUSE_S
        while self._waiters:
            await asyncio.sleep(pause)
            asked, began = list(self._waiters), time.monotonic()
            jobs = {waiter.job for waiter in asked}
            try:
                found = await to_thread.run_sync(
                    _versions, self._database, jobs, limiter=self._thread
                )
            except Exception as error:  # it is for those who wait
                for waiter in asked:
                    if not waiter.changed.done():
                        waiter.changed.set_exception(error)
                continue
            pause = max(_PAUSE_S, 4 * (time.monotonic() - began))
            for waiter in asked:
                version, ended = found.get(waiter.job, (-1, True))
                if (ended or version != waiter.version) and not waiter.changed.done():
                    waiter.changed.set_result(None)

    def close(self) -> None:
        """End the looking."""
        if self._looking is not None:
            self._looking.cancel()
