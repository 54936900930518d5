"""What this worker offers to time networks on, said again and again while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence

from espalier.targets import Target
from models.database import AWAY, Database
from models.logs import get_logger
from models.offers import OFFER_S, Offer, offer

_LIMIT_S = 120.0


def offers_here() -> tuple[Offer, ...]:
    """The targets of this machine.

    Found in a process of its own, since looking for accelerators takes torch, which a worker's
    own process goes without.
    """
    done = subprocess.run(
        [sys.executable, "-m", "espalier.runtimes"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_LIMIT_S,
    )
    return tuple(
        Offer(target.runtime, target.version, target.device)
        for target in map(Target.from_json, json.loads(done.stdout))
    )


def keep_offering(
    database: Database, offers: Sequence[Offer], ended: threading.Event
) -> threading.Thread:
    """Say what is offered every `OFFER_S` seconds until told to end; gives the thread that does."""

    def say() -> None:
        while True:
            try:
                with database.transaction() as session:
                    offer(session, offers)
            except AWAY as error:
                get_logger().warning("worker.not_offered", error=str(error))
            if ended.wait(OFFER_S):
                return

    thread = threading.Thread(target=say, name="offering", daemon=True)
    thread.start()
    return thread
