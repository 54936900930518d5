"""Ties a process to the one that started it, so that none is left over."""

from __future__ import annotations

import os
import threading


def end_with(descriptor: int) -> None:
    """End this process when the pipe that its parent holds does, however that happens.

    Args:
        descriptor: reading end of a pipe whose other end only the parent has.
    """

    def wait() -> None:
        os.read(descriptor, 1)
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
