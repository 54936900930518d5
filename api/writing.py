"""Requests that write have threads of their own: a read never waits for writers that wait.

A lock on the database can hold up every request that writes. In the threads that all requests
share, a few dozen of them would leave none for the others.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from api.dependencies import Service

MOST_WRITERS = 12
"""Fewer than the connections for writing, 15: what writers wait for is the database's lock."""

P = ParamSpec("P")
R = TypeVar("R")


def writers() -> CapacityLimiter:
    """The threads of one process."""
    return CapacityLimiter(MOST_WRITERS)


async def write(service: Service, act: Callable[P, R], /, *given: P.args, **named: P.kwargs) -> R:
    """Call what writes to the database, in one of its threads."""
    call = functools.partial(act, *given, **named)
    return await to_thread.run_sync(call, limiter=service.writers)


def writing(endpoint: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Make an endpoint of a function that writes and takes the argument `service`."""

    @functools.wraps(endpoint)
    async def called(*given: P.args, **named: P.kwargs) -> R:
        return await write(cast("Service", named["service"]), endpoint, *given, **named)

    return called


def committed(service: Service, act: Callable[[Session], Response]) -> Response:
    """What `act` answers, after what it did was committed.

    The answer is encoded by then: whatever is wrong with it undoes what was done, so that nothing
    commits behind an error. Nothing else in the API begins a transaction that writes.
    """
    with service.database.transaction() as session:
        return act(session)
