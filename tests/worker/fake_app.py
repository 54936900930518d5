"""The worker's Celery application with the child of `fake_child.py`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import worker.app
from worker.supervisor import Slot

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))

worker.app.Slot = functools.partial(Slot, command=FAKE)  # type: ignore[assignment, misc]
app = worker.app.app
