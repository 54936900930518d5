"""A running service of one's own, for the demonstration and the benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STARTUP_S = 60.0
SHORT_LEASES = {
    "ESPALIER_LEASE_S": "6",
    "ESPALIER_HEARTBEAT_S": "1",
    "ESPALIER_SWEEP_S": "1",
}
"""So that a killed worker is missed within seconds, where many are killed."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service started by `espalier serve`: where it answers, and its process."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running(
    data: Path, *, workers: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Start `espalier serve` on a free port; stop it, and everything it started, on leaving.

    Args:
        data: folder for its database, files and log (`serve.log`).
        workers: trials that run at the same time.
        settings: of the service, as environment variables.

    Raises:
        RuntimeError: it did not answer within `STARTUP_S` seconds; the message has its log.
    """
    data.mkdir(parents=True, exist_ok=True)
    address = data / "url"
    address.unlink(missing_ok=True)
    log = data / "serve.log"
    command = [sys.executable, "-m", "espalier", "serve", "--data", str(data), "--port", "0"]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_WAIT_POLICY": "passive", **(settings or {})},
        )
    # A benchmark that is told to stop must not leave its service behind.
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        deadline = time.monotonic() + STARTUP_S
        while not address.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.05)
        yield Service(address.read_text().strip(), process)
    finally:
        signal.signal(signal.SIGTERM, former)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
