"""`python -m worker.reaper`: brings back what was lost. Any number may run at once.

Units whose leases have lapsed return to the queue, messages that the broker did not take are sent
again, and the bell rings for whatever waits while no message does.
"""

from __future__ import annotations

import signal
import threading
import time

from sqlalchemy import delete, select

from models import private
from models.base import clock_s
from models.bell import BrokerBell
from models.blobs import BlobStore
from models.claims import expire
from models.database import AWAY, Database
from models.errors import BlobError
from models.idempotency_key import IdempotencyKey
from models.logs import get_logger
from models.outbox import Outbox
from models.queue import claimable
from models.references import collect
from models.settings import Settings

_TIDY_S = 600.0
_BEATS = 2  # after an outage of the database, leases hold until their owners could renew them
_UNSENT_S = 2.0  # a younger row is still being sent by its writer
_BATCH = 200
_KEY_AGE_S = 7 * 86_400.0


def sweep(database: Database, bell: BrokerBell, max_attempts: int, *, expires: bool = True) -> int:
    """One round; gives how many leases had lapsed.

    Args:
        expires: whether units whose leases have lapsed are given back.
    """
    lapsed = 0
    while expires:
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
    private.begin()
    private.tighten(settings)
    bell = BrokerBell(settings)
    database = Database.of(settings, bell=bell)
    store = BlobStore.open(settings.blob_url)
    log = get_logger()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    next_tidy = time.monotonic() + _TIDY_S
    steady = time.monotonic()
    while not ended.is_set():
        try:
            expires = time.monotonic() >= steady
            lapsed = sweep(database, bell, settings.max_attempts, expires=expires)
            if lapsed:
                log.info("reaper.lapsed", units=lapsed)
            if time.monotonic() >= next_tidy:
                next_tidy = time.monotonic() + _TIDY_S
                log.info("reaper.tidied", blobs=tidy(database, store, settings.blob_grace_s))
        except AWAY as error:
            log.warning("reaper.database_away", error=str(error))
            steady = time.monotonic() + _BEATS * settings.heartbeat_s
        except (BlobError, OSError) as error:
            log.warning("reaper.not_tidied", error=str(error))
        ended.wait(settings.sweep_s)
    database.dispose()


if __name__ == "__main__":
    main()
