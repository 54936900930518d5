"""Rings for work through the broker: a message carries the id of a unit of work, nothing else.

A message may be lost, doubled, late or out of order without harm; the rows are the record.
"""

from __future__ import annotations

from celery import Celery

from models.logs import get_logger
from models.settings import Settings

TASK = "espalier.ring"
QUEUE = "espalier"


class BrokerBell:
    """A bell that sends Celery messages. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._silent = False
        self._app = Celery("espalier", broker=settings.broker)
        self._app.conf.update(
            task_ignore_result=True,
            broker_transport_options={
                "socket_timeout": 2.0,
                "socket_connect_timeout": 2.0,
                "max_retries": 0,
            },
        )

    def ring(self, work_ids: list[int]) -> bool:
        """Send a message for each unit of work; false if the broker did not take them all."""
        try:
            for work_id in work_ids:
                self._app.send_task(TASK, args=(work_id,), queue=QUEUE, retry=False)
        except Exception as error:  # the commit stands, whatever the broker or the network raises
            self._note(error)
            return False
        self._silent = False
        return True

    def waiting(self) -> int | None:
        """How many messages no worker has taken yet; `None` if the broker does not answer."""
        try:
            with self._app.connection_for_write() as connection:
                queue = connection.default_channel.queue_declare(QUEUE, durable=True)
                count: int = queue.message_count
                return count
        except Exception as error:  # whatever the broker or the network may raise
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        if not self._silent:  # once, not for every message
            get_logger().warning("broker.unreachable", error=str(error))
        self._silent = True
