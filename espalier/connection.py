"""Calls to the service, repeated over what passes: errors of the line, 5xx and 429."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from espalier.errors import ApiError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8765"
_AGAIN = frozenset({429, 500, 502, 503, 504})

T = TypeVar("T")
Json = dict[str, Any]


class Connection:
    """A connection to the service; a context manager, safe to share between threads.

    Args:
        url: of the service; `ESPALIER_URL` or `DEFAULT_URL` if left out.
        timeout_s: how long to wait for an answer that is not a long poll.
        attempts: how often a call is tried before the last error is raised.
        transport: instead of the network (tests).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 30.0,
        attempts: int = 6,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("ESPALIER_URL") or DEFAULT_URL).rstrip("/")
        self.timeout_s = timeout_s
        self._attempts = attempts
        self.http = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        return self.json("GET", path, params=params)

    def json(self, method: str, path: str, **options: Any) -> Json:
        return decoded(self.call(method, path, **options))

    def pages(self, path: str, filters: Mapping[str, str | None] | None = None) -> Iterator[Json]:
        """The items of every page; filters that are `None` are left out."""
        params = {key: value for key, value in (filters or {}).items() if value is not None}
        while True:
            page = self.get(path, params)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer to a request that may be sent again, read; `options` are those of httpx.

        Raises:
            ApiError: the service refused.
            Unreachable: it does not answer.
        """
        return self.retried(lambda: checked(self.http.request(method, path, **options)))

    def retried(self, call: Callable[[], T]) -> T:
        """Try `call` over connection errors, 5xx and 429, with growing pauses."""
        for attempt in range(1, self._attempts + 1):
            pause = min(8.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
            try:
                return call()
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise Unreachable(self.url, error) from error
            except httpx.TransportError as error:
                if attempt == self._attempts:
                    raise Unreachable(self.url, error) from error
            except ApiError as error:
                if attempt == self._attempts or error.status not in _AGAIN:
                    raise
                pause = max(pause, error.retry_after_s)
            time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")


def url_of(*parts: str) -> str:
    """A path below /v1, each part of it one segment."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def checked(response: httpx.Response) -> httpx.Response:
    """The answer itself; it is read if it is an error.

    Raises:
        ApiError: it is one.
    """
    if response.is_error:
        response.read()
        raise ApiError.from_response(response)
    return response


def decoded(response: httpx.Response) -> Json:
    """The JSON object of an answer.

    Raises:
        ApiError: it is none, so that something else than Espalier has answered.
    """
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError.foreign(response)
    return found
