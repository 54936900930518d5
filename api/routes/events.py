"""Events of a job: as Server-Sent Events, or as a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import Service, Services
from api.problems import Problem, responses
from api.schemas import EventList, event_view
from api.views import EventView
from models.errors import NotFound
from models.events import events_after
from models.jobs import get_job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

STREAM = "text/event-stream"
HEARTBEAT_S = 15.0  # proxies cut connections that are silent for 30 to 60 s
_LEAST_S, _MOST_S = 0.1, 0.5
_BATCH = 500

_STREAM_CONTENT = {
    "schema": {"type": "string"},
    "example": 'id: 2\nevent: state\ndata: {"number":2,"kind":"state",'
    '"at":"2026-01-01T00:00:00Z","data":{"from":"queued","to":"running"}}\n\n',
}

Number = Annotated[
    int,
    Query(ge=0, lt=2**31, description="events after the one of this number; 0 is from the first"),
]


def _look(service: Service, job: str, after: int) -> tuple[list[EventView], bool]:
    """Events after that number, at most a batch, and whether they are the last of all.

    The job is read first: what ends it writes its last event in the same transaction, so that
    none can come after a batch that is not full.
    """
    with service.database.transaction(write=False) as session:
        terminal = get_job(session, job).terminal
        found = events_after(session, job, after, limit=_BATCH)
        return [event_view(row) for row in found], terminal and len(found) < _BATCH


def _frame(event: EventView) -> bytes:
    return f"id: {event.number}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()


async def _stream(
    service: Service, job: str, first: list[EventView], ended: bool, after: int, request: Request
) -> AsyncIterator[bytes]:
    """Frames until the terminal event; nothing is held while the client reads slowly."""
    yield b"retry: 2000\n\n"
    found, pause, spoke = first, _LEAST_S, time.monotonic()
    while True:
        if found:
            after, pause, spoke = found[-1].number, _LEAST_S, time.monotonic()
            yield b"".join(map(_frame, found))
        if ended:
            return
        if len(found) < _BATCH:
            await asyncio.sleep(pause)
            pause = min(_MOST_S, pause * 1.25)
        if await request.is_disconnected():
            return
        if time.monotonic() - spoke >= HEARTBEAT_S:
            spoke = time.monotonic()
            yield b": still here\n\n"
        try:
            found, ended = await asyncio.to_thread(_look, service, job, after)
        except NotFound:  # it has been deleted
            return


def _wants_list(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    if STREAM in accept:
        return False
    return "application/json" in accept or "after" in request.query_params


@router.get(
    "/{job}/events",
    operation_id="listEvents",
    response_model=EventList,
    responses=responses(
        400,
        404,
        422,
        also={
            200: {"description": "The events", "content": {STREAM: _STREAM_CONTENT}},
            204: {"description": "A stream of a job that has ended, with nothing left to tell"},
        },
    ),
)
async def events(
    job: str,
    request: Request,
    service: Services,
    after: Number = 0,
    last_event_id: Annotated[
        str | None, Header(description="number of the last event that the client has seen")
    ] = None,
) -> Response | EventList:
    """What happened to a job, numbered from 1 without gaps.

    A stream of Server-Sent Events that ends after the terminal event; reconnecting with
    `Last-Event-ID` continues it without loss. With `after`, or `Accept: application/json`, the
    events so far as a list (at most 500; ask again after the last number).
    """
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 10):
            raise Problem(
                400,
                "events.last_event_id",
                "Last-Event-ID must be the number of an event: send what the last `id:` said",
            )
        after = int(last_event_id)
    found, ended = await asyncio.to_thread(_look, service, job, after)
    if _wants_list(request):
        return EventList(items=found)
    if ended and not found:
        return Response(status_code=204)  # which tells an EventSource to stop reconnecting
    return StreamingResponse(
        _stream(service, job, found, ended, after, request),
        media_type=STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
