"""The Celery application: `celery -A worker.app worker --pool threads --concurrency SLOTS`.

Celery is only the doorbell. A message says that work waits; which unit a slot takes is decided in
the database. Messages are acknowledged before the work begins, so none is ever redelivered
because work takes long, and a lost one is replaced by the reaper.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from celery import Celery, signals

from models import private
from models.bell import QUEUE, TASK, BrokerBell
from models.blobs import BlobStore
from models.database import Database
from models.offers import Offer
from models.settings import Settings
from worker import broker
from worker.offering import keep_offering, offers_here
from worker.supervisor import Slot

settings = Settings()
broker.install()

app = Celery("espalier", broker=settings.broker)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    task_acks_late=False,
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)

_draining = threading.Event()
_slots: list[Slot] = []
_own = threading.local()


@cache
def _shared() -> tuple[Database, BlobStore]:
    database = Database.of(settings, bell=BrokerBell(settings))
    return database, BlobStore.open(settings.blob_url)


_SHARED_LOCK = threading.Lock()


@cache
def _offers() -> tuple[Offer, ...]:
    return offers_here()


def _slot() -> Slot:
    """The slot of this thread of the pool, made at its first message."""
    if not hasattr(_own, "slot"):
        with _SHARED_LOCK:
            _own.slot = Slot(*_shared(), settings, _draining, offers=_offers())
            _slots.append(_own.slot)
    slot: Slot = _own.slot
    return slot


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery has no types
def ring(work_id: int) -> None:  # noqa: ARG001 - whose turn it is, the database decides
    """Do what waits. May come twice, late, or for work that is long done."""
    _slot().serve()


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _begin(**_: Any) -> None:
    private.begin()
    private.tighten(settings)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _offer(**_: Any) -> None:
    with _SHARED_LOCK:
        keep_offering(_shared()[0], _offers(), _draining)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _drain(**_: Any) -> None:
    _draining.set()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _close(**_: Any) -> None:
    for slot in _slots:
        slot.close()
