"""`python -m tests.worker.serve`: a supervisor that works until nothing waits."""

from __future__ import annotations

import threading

from models.blobs import BlobStore
from models.database import Database
from models.settings import Settings
from tests.worker.fake_app import FAKE
from worker.supervisor import Slot

if __name__ == "__main__":
    settings = Settings()
    slot = Slot(
        Database.of(settings), BlobStore.open(settings.blob_url), settings, threading.Event(), FAKE
    )
    slot.serve()
    slot.close()
