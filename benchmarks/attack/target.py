"""The attacked service, and what an attack does to it: answers, processor time, memory, delay."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import psutil

from benchmarks.attack.processes import processes
from benchmarks.service import Service

PATIENCE_S = 120.0
"""A request that has no answer by then counts as none."""

HEALTHZ_S = 2.0
"""The longest wait for `/healthz` that still is an answer, on a machine with other work."""
PEAK_BYTES = 1 << 30
"""The most memory that the API and what it starts may take for one request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and what it did to the API meanwhile.

    Attributes:
        status: HTTP status; `None` if the connection ended without one.
        code: of the problem, or the network error's name.
        cpu_s: processor time of the API and of what it started and reaped.
        peak_bytes: most memory of the API and its children together, above what it had before.
        healthz_s: the longest wait for `/healthz` meanwhile.
    """

    name: str
    status: int | None
    code: str | None
    seconds: float
    cpu_s: float
    peak_bytes: int
    healthz_s: float

    def held(self, statuses: Container[int | None]) -> bool:
        """Whether the answer is one of those, and others were answered meanwhile."""
        answered = self.healthz_s < HEALTHZ_S and self.peak_bytes < PEAK_BYTES
        return self.status in statuses and answered

    def to_json(self) -> dict[str, Any]:
        rounded = {key: round(value, 3) for key, value in asdict(self).items() if "_s" in key}
        return asdict(self) | rounded | {"seconds": round(self.seconds, 3)}


def _family(api: psutil.Process) -> list[psutil.Process]:
    return [api, *api.children(recursive=True)]


def _cpu_s(api: psutil.Process) -> float:
    times = api.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _memory(api: psutil.Process) -> int:
    total = 0
    for process in _family(api):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


class _Watch(threading.Thread):
    """Asks for `/healthz` and adds up memory until told to stop."""

    def __init__(self, url: str, api: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.healthz_s = 0.0
        self.memory = 0
        self._url, self._api, self._over = url, api, threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while True:
                started = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/healthz")
                self.healthz_s = max(self.healthz_s, time.monotonic() - started)
                with contextlib.suppress(psutil.Error):
                    self.memory = max(self.memory, _memory(self._api))
                if self._over.wait(0.05):
                    return

    def stop(self) -> None:
        self._over.set()
        self.join()


class Target:
    """A running service under attack.

    Args:
        service: from `benchmarks.service.running`.
    """

    def __init__(self, service: Service) -> None:
        self.url = service.url
        self._service = service

    def attack(self, name: str, act: Callable[[], httpx.Response]) -> Answer:
        """Do it, and see what it does to the API meanwhile."""
        (api,) = processes(self._service, "api")
        before_s, before = _cpu_s(api), _memory(api)
        watch = _Watch(self.url, api)
        watch.start()
        started = time.monotonic()
        status: int | None = None
        try:
            response = act()
            status, code = response.status_code, _code(response)
        except httpx.HTTPError as error:
            code = type(error).__name__
        seconds = time.monotonic() - started
        watch.stop()
        cpu_s = _cpu_s(api) - before_s
        peak = max(0, watch.memory - before)
        return Answer(name, status, code, seconds, cpu_s, peak, watch.healthz_s)

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            yield client


def _code(response: httpx.Response) -> str | None:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        code = response.json().get("code")
        return None if code is None else str(code)
    return None
