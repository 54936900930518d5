"""The transport from Redis: what is no message of ours is dropped, and does not end the worker.

Any client of that Redis can put anything into the list. Kombu and Celery take for granted that it
is JSON of their own shape, and let the error end the process that reads it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from models.bell import QUEUE, TASK
from models.logs import get_logger


def install() -> None:
    """Have Celery read from Redis by this transport; before the first connection."""
    TRANSPORT_ALIASES["redis"] = f"{__name__}:Transport"


class Channel(redis.Channel):
    """Drops what is no JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu's
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError
            _dropped(type(error).__name__)
            return True


class Transport(redis.Transport):
    """Drops what is JSON, but not what its reader takes for granted."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue == QUEUE and not _rings(message):
            _dropped("not a message of the service")
            return
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # kombu's
        except Exception as error:  # commands and news from other workers come here too
            # Kombu counts a missing key among the errors of the connection.
            if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                raise
            _dropped(type(error).__name__)


def _rings(message: Any) -> bool:
    """Whether a message has the shape of those that `models.bell` sends."""
    match message:
        case {
            "body": str(body),
            "headers": {"task": str(task), "id": str()},
            "properties": {
                "delivery_tag": str(),
                "delivery_info": dict(),
                "body_encoding": "base64",
            },
        } if task == TASK:
            return _is_call(body)
    return False


def _is_call(body: str) -> bool:
    """Whether a body holds one unit's number as the only argument."""
    try:
        call = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, RecursionError):
        return False
    match call:
        case [[int()], {}, {}]:
            return True
    return False


def _dropped(why: str) -> None:
    get_logger().warning("message.dropped", why=why)
