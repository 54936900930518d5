"""Has strangers' files examined, a few at once, each in a process with limits of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import Request

from api.problems import Problem
from models.settings import Settings
from search.examination.bounds import Bounds, Kind
from search.examination.process import Examination, Examined

_LOOK_S = 0.25  # between two looks at whether the client is still there


class Examinations:
    """The examinations of one process: a few run, the others wait for one of them to end."""

    def __init__(self, settings: Settings) -> None:
        self._cpu_s = settings.examination_cpu_s
        self._memory_bytes = settings.examination_memory_bytes
        self._turns = asyncio.Semaphore(settings.examinations)

    async def examine(self, request: Request, kind: Kind, path: Path) -> Examined:
        """What the file holds; its process ends when the client that sent it goes.

        Raises:
            Refused: it cannot be used, or takes more than is allowed.
        """
        async with self._turns:
            bounds = Bounds.of(kind, path.stat().st_size, self._cpu_s, self._memory_bytes)
            running = Examination(kind, path, bounds)
            verdict = asyncio.ensure_future(asyncio.to_thread(running.verdict))
            try:
                while not (await asyncio.wait([verdict], timeout=_LOOK_S))[0]:
                    if await request.is_disconnected():
                        raise Problem(400, "upload.malformed", "the client went: send it again")
                return verdict.result()
            finally:
                if not verdict.done():
                    running.stop()
                    await asyncio.wait([verdict])  # nobody asks for it, and nothing is left over
                    verdict.exception()
