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
FRAMING_BYTES = 1 << 16  # of a head, of trailers, of a chunk's extensions
_CLOSE = b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout" + _CLOSE
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large" + _CLOSE


class Protocol(HttpToolsProtocol):
    """One connection, which is closed when the client is silent for `limit_s` at a wrong time."""

    limit_s: float = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None
        self._framing_bytes = 0
        self._in_head = self._in_message = self._took_body = False
        self._unread: asyncio.TimerHandle | None = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._took_body = False
        super().data_received(data)
        if self._took_body:
            self._framing_bytes = 0
        elif self._in_message:
            self._framing_bytes += len(data)
            if self._framing_bytes > FRAMING_BYTES:
                self._refuse(_LARGE)

    def on_message_begin(self) -> None:
        self._in_head, self._in_message, self._framing_bytes = True, True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers may be ignored (RFC 9110, section 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_here()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._took_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

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
            if self._in_head:  # who sent nothing expects no answer, and behind it is a route's
                self.transport.write(answer)
            self.transport.close()


def config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """How to serve the application, or what names it; `options` are those of uvicorn."""
    protocol = type("Protocol", (Protocol,), {"limit_s": settings.client_timeout_s})
    fixed = {"http": protocol, "ws": "none", "access_log": False}
    return uvicorn.Config(app, **{"timeout_graceful_shutdown": GRACE_S, **options, **fixed})
