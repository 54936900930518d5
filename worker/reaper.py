"""`python -m worker.reaper`: brings back what was lost. Any number may run at once.

Units whose leases have lapsed return to the queue, messages that the broker did not take are sent
again, and the bell rings for whatever waits while no message does.
"""

from __future__ import annotations

import signal
import threading
import time

import structlog
from sqlalchemy import delete, select

from models.base import clock_s
from models.bell import BrokerBell
from models.blobs import BlobStore
from models.claims import expire
from models.database import AWAY, Database
from models.idempotency import IdempotencyKey
from models.outbox import Outbox
from models.queue import claimable
from models.references import collect
from models.settings import Settings

_TIDY_S = 600.0
_UNSENT_S = 2.0  # a younger row is still being sent by its writer
_BATCH = 200
_KEY_AGE_S = 7 * 86_400.0


def sweep(database: Database, bell: BrokerBell, max_attempts: int) -> int:
    """One round; gives how many leases had lapsed."""
    lapsed = 0
    while True:
        with database.transaction() as session:
            count = expire(session, max_attempts)
        if count == 0:
            break
        lapsed += count
    with database.transaction(write=False) as session:
        unsent = select(Outbox.id, Outbox.work_id).where(Outbox.created_at < clock_s() - _UNSENT_S)
        rows = session.execute(unsent.order_by(Outbox.id).limit(_BATCH)).all()
        waiting = claimable(session, _BATCH)
    if rows and bell.ring([work_id for _, work_id in rows]):
        with database.transaction() as session:
            session.execute(delete(Outbox).where(Outbox.id.in_([row_id for row_id, _ in rows])))
    if waiting and bell.waiting() == 0:  # else messages would pile up while all slots are busy
        bell.ring(waiting)
    return lapsed


def tidy(database: Database, store: BlobStore, blob_grace_s: float) -> int:
    """Delete unused blobs and old idempotency keys; gives the number of blobs."""
    with database.transaction() as session:
        session.execute(
            delete(IdempotencyKey).where(IdempotencyKey.created_at < clock_s() - _KEY_AGE_S)
        )
    return collect(database, store, grace_s=blob_grace_s)


def main() -> None:
    """Sweep until SIGTERM."""
    settings = Settings()
    bell = BrokerBell(settings)
    database = Database.of(settings, bell=bell)
    store = BlobStore.open(settings.blob_url)
    log = structlog.get_logger()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    next_tidy = time.monotonic() + _TIDY_S
    while not ended.is_set():
        try:
            lapsed = sweep(database, bell, settings.max_attempts)
            if lapsed:
                log.info("reaper.lapsed", units=lapsed)
            if time.monotonic() >= next_tidy:
                next_tidy = time.monotonic() + _TIDY_S
                log.info("reaper.tidied", blobs=tidy(database, store, settings.blob_grace_s))
        except AWAY as error:
            log.warning("reaper.database_away", error=str(error))
        ended.wait(settings.sweep_s)
    database.dispose()


if __name__ == "__main__":
    main()
