"""What every request passes before its route: who asks, in which words, and how much it brings."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import bodies, origins
from api.problems import Problem
from espalier.text import unfit
from models.settings import Settings

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # a page that is framed can be misled
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer."""


class Edge:
    """The middleware; its settings are those of the service, which starts after it is made.

    Args:
        uploads: the paths whose routes read their bodies themselves.
    """

    def __init__(self, app: ASGIApp, uploads: frozenset[str]) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        settings: Settings = scope["app"].state.service.settings
        try:
            receive = await self._taken(scope, receive, settings)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, dressed)
        else:
            await self._app(scope, receive, dressed)

    async def _taken(self, scope: Scope, receive: Receive, settings: Settings) -> Receive:
        """How the route receives the body. Raises: `Problem`."""
        headers = Headers(scope=scope)
        origins.check_host(headers, settings.host_names)
        origins.check_origin(scope["method"], headers)
        check_text(scope)
        if not bodies.has_body(headers):
            return receive
        timed = bodies.in_time(receive, settings.client_timeout_s)
        if scope["path"] in self._uploads:
            return timed
        body = await bodies.whole(timed, headers)
        await bodies.check(body, headers)
        return bodies.replayed(body, timed)


def check_text(scope: Scope) -> None:
    """Refuse paths and queries that are no text.

    Raises:
        Problem: 400 if they are no UTF-8, 422 if the text cannot be stored.
    """
    for where, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
        try:
            text = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise Problem(
                400, "request.malformed", f"the {where} is no UTF-8: encode it as such, then as %XX"
            ) from None
        if fault := unfit(text):
            raise bodies.unstorable(f"the {where}", fault)
