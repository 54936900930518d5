"""The bell, loaded beside the first answers: Celery takes a third of the API's start."""

from __future__ import annotations

import threading

from models.database import Bell
from models.settings import Settings


class LateBell:
    """Rings as `models.bell.BrokerBell` does, which is imported in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bell: Bell | None = None
        self._thread = threading.Thread(target=self._load, name="load-celery", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        from models.bell import BrokerBell

        self._bell = BrokerBell(self._settings)

    def ring(self, work_ids: list[int]) -> bool:
        """Send a message for each; false if the broker did not take them."""
        self._thread.join()
        return self._bell is not None and self._bell.ring(work_ids)
