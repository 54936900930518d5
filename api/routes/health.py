"""For those who run the service: is it alive, is it ready, what is it doing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from sqlalchemy import text

from api.dependencies import Service, Services
from models.overview import jobs_by_state, longest_wait_s, open_work, stored_bytes, unsent
from models.tables import metadata

router = APIRouter(tags=["operation"])
log = logging.getLogger(__name__)


class Health(BaseModel):
    status: str


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="`ok` or `failed`; why is in the service's log")


@router.get("/healthz", operation_id="health")
async def healthz() -> Health:
    """Whether the process answers."""
    return Health(status="ok")


def _database(service: Service) -> None:
    with service.database.transaction(write=False) as session:
        for table in metadata.tables:  # which are missing before the migrations ran
            session.execute(text(f'SELECT 1 FROM "{table}" LIMIT 1'))


def _broker(service: Service) -> None:
    from redis import Redis  # not at the start, which it would lengthen by a fifth

    url = service.settings.broker.replace("redis+socket://", "unix://")
    with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as redis:
        redis.ping()


def _blobs(service: Service) -> None:
    with service.blobs.incoming() as blob:
        blob.write(b"ready?")
        blob.written()


CHECKS: Mapping[str, Callable[[Service], None]] = {
    "database": _database,
    "broker": _broker,
    "blobs": _blobs,
}


@router.get(
    "/readyz",
    operation_id="ready",
    responses={503: {"model": Readiness, "description": "Something does not answer"}},
)
def readyz(service: Services, response: Response) -> Readiness:
    """Whether database, broker and blob store answer, and the migrations have run."""
    checks: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(service)
            checks[name] = "ok"
        except Exception as error:  # whatever it is: that is what the answer is about
            # Its words may hold addresses, paths and passwords, and everybody may ask.
            log.error("not ready: %s: %s: %s", name, type(error).__name__, error)
            checks[name] = "failed"
    ready = all(state == "ok" for state in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, checks=checks)


def _lines(name: str, help_: str, values: Mapping[str, float]) -> str:
    """One metric in Prometheus' text format; the keys of `values` are its labels as written."""
    samples = "".join(f"espalier_{name}{labels} {value:g}\n" for labels, value in values.items())
    return f"# HELP espalier_{name} {help_}\n# TYPE espalier_{name} gauge\n{samples}"


@router.get("/metrics", operation_id="metrics", response_class=PlainTextResponse)
def metrics(service: Services) -> Response:
    """Counts in the text format of Prometheus."""
    with service.database.transaction(write=False) as session:
        jobs = {f'{{state="{state}"}}': n for state, n in jobs_by_state(session).items()}
        work = {
            f'{{kind="{kind}",state="{state}"}}': n
            for (kind, state), n in open_work(session).items()
        }
        text_ = (
            _lines("jobs", "Jobs by state.", jobs)
            + _lines("work", "Units of work that wait (ready) or run (claimed).", work)
            + _lines(
                "work_longest_wait_seconds",
                "Age of the oldest unit of work that waits for a worker.",
                {"": longest_wait_s(session)},
            )
            + _lines("outbox", "Messages that the broker has not taken.", {"": unsent(session)})
            + _lines("stored_bytes", "Bytes of all blobs in use.", {"": stored_bytes(session)})
        )
    return PlainTextResponse(text_, media_type="text/plain; version=0.0.4; charset=utf-8")
