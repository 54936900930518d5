"""The web server: uvicorn, with an end to clients that are silent.

uvicorn closes a connection that is idle between two requests, and no other. Here a request's head
has to arrive in time and within bounds, and an answer has to be taken; `api.bodies` sees to it that
the body arrives.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from models.settings import Settings

GRACE_S = 5  # long polls and event streams are cut after this
HEAD_BYTES = 1 << 16
_CLOSE = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout" + _CLOSE
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large" + _CLOSE


class Protocol(HttpToolsProtocol):
    """One connection, which is closed when the client is silent for `limit_s` at a wrong time."""

    limit_s: float = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False
        self._unread: asyncio.TimerHandle | None = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_LARGE)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_here()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limit_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(self.limit_s, self._refuse, _LATE)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _refuse(self, answer: bytes) -> None:
        self._head_is_here()
        if not self.transport.is_closing():
            if self._in_head:  # who has sent nothing expects no answer
                self.transport.write(answer)
            self.transport.close()


def config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """How to serve the application, or what names it; `options` are those of uvicorn."""
    protocol = type("Protocol", (Protocol,), {"limit_s": settings.client_timeout_s})
    fixed = {"http": protocol, "ws": "none", "access_log": False}
    return uvicorn.Config(app, **{"timeout_graceful_shutdown": GRACE_S, **options, **fixed})
