"""Writing to a database that is locked, full, read-only, restarting or out of reach."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from models.claims import Claim
from models.database import AWAY
from models.events import append
from models.locks import lock_worked_on
from models.logs import get_logger
from models.settings import Settings
from models.waiting import waits_for

_LONGEST_PAUSE_S = 0.5

T = TypeVar("T")


class Outage:
    """When and why the database last took no writes during an attempt; of one thread.

    Args:
        draining: set when the worker is to end.
        settings: how much longer it may try then, and how often: between two heartbeats, since
            the reaper lets leases lapse that are not renewed soon after an outage.
    """

    def __init__(self, draining: threading.Event, settings: Settings) -> None:
        self._draining = draining
        self._grace_s = settings.stop_grace_s
        self._pause_s = min(_LONGEST_PAUSE_S, settings.heartbeat_s / 2)
        self._began: float | None = None
        self._reason = ""

    def forget(self) -> None:
        """Forget the outage: it has been told, or another attempt begins."""
        self._began = None

    def note(self, error: Exception) -> None:
        """A write failed by that error, one of `AWAY`."""
        get_logger().warning("database.away", error=str(error))
        if self._began is None:
            self._began, self._reason = time.monotonic(), waits_for(error) or str(error)

    def tell(self, session: Session, claim: Claim) -> None:
        """Append the event of an outage that is over, if there was one, to the claim's job.

        Raises:
            LeaseLost: the job has been deleted.
        """
        if self._began is not None:
            seconds = round(time.monotonic() - self._began, 1)
            job = lock_worked_on(session, claim.job_id)
            append(session, job, "waited", {"for": self._reason, "seconds": seconds})

    def insist(self, act: Callable[[], T]) -> T:
        """Try a transaction again while the database is away.

        There is nothing else to do meanwhile: the next unit is claimed there too. If it did go
        through, though the answer was lost, the next try finds that the lease is.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the statement is at fault, or the worker ends.
        """
        last: float | None = None
        while True:
            try:
                return act()
            except AWAY as error:
                self.note(error)
                if self._draining.is_set() and last is None:
                    last = time.monotonic() + self._grace_s
                if waits_for(error) is None or (last is not None and time.monotonic() > last):
                    raise
                time.sleep(self._pause_s)
