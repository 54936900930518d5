"""The worker's Celery application with the child of `fake_child.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from worker import supervisor
from worker.app import app

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))

supervisor.CHILD = FAKE

__all__ = ["FAKE", "app"]
