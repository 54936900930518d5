"""Events of a job: as Server-Sent Events, or as a list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look found.

    Attributes:
        events: after the number asked for, at most a batch.
        ended: whether these are the last of all.
        version: the job's, by which a change is noticed.
    """

    events: list[EventView]
    ended: bool
    version: int


def _look(service: Service, job: str, after: int) -> _Seen:
    """The job is read first: what ends it writes its last event in the same transaction, so that
    none can come after a batch that is not full.
    """
    with service.database.transaction(write=False) as session:
        row = get_job(session, job)
        found = events_after(session, job, after, limit=_BATCH)
        ended = row.terminal and len(found) < _BATCH
        return _Seen([event_view(each) for each in found], ended, row.last_event)


def _frame(event: EventView) -> bytes:
    return f"id: {event.number}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()


async def _stream(
    service: Service, job: str, seen: _Seen, after: int, request: Request
) -> AsyncIterator[bytes]:
    """Frames until the terminal event; nothing is held while the client reads slowly."""
    yield b"retry: 2000\n\n"
    gone = request.is_disconnected
    while True:
        if seen.events:
            after = seen.events[-1].number
            yield b"".join(map(_frame, seen.events))
        if seen.ended:
            return
        more = len(seen.events) == _BATCH
        while not more:
            more = await service.watch.changed(job, seen.version, HEARTBEAT_S, gone)
            if await gone():
                return
            if not more:
                yield b": still here\n\n"
        try:
            seen = await to_thread.run_sync(_look, service, job, after, limiter=service.streams)
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
    seen = await to_thread.run_sync(_look, service, job, after)
    if _wants_list(request):
        return EventList(items=seen.events)
    if seen.ended and not seen.events:
        return Response(status_code=204)  # which tells an EventSource to stop reconnecting
    return StreamingResponse(
        _stream(service, job, seen, after, request),
        media_type=STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
