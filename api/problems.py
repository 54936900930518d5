"""Errors as RFC 9457 problem documents, every one of them with a stable `code`.

An error names the thing, the limit and the way out. `code` is what programs compare; `detail` is
for people and may be reworded at any time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from espalier.format.errors import EspalierError
from models.database import AWAY
from models.errors import (
    BlobCorrupt,
    BlobError,
    BlobMissing,
    BlobTooLarge,
    BlobUnreachable,
    IdempotencyConflict,
    NotFound,
    StateConflict,
)
from models.waiting import waits_for

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(description="path of the field, as `budget.macs`; `body` for all of it")
    message: str
    limit: str | None = Field(None, description="what the field has to satisfy")
    way_out: str = Field(description="what to do about it")


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:espalier:problem:not_found",
                "title": "Not Found",
                "status": 404,
                "detail": "there is no network 'net_6f1c': upload it with POST /v1/networks",
                "instance": "/v1/networks/net_6f1c",
                "code": "not_found",
            }
        },
    )

    type: str = Field(description="`urn:espalier:problem:` and the code")
    title: str
    status: int
    detail: str
    instance: str = Field(description="path of the request")
    code: str = Field(description="stable, for programs")
    errors: list[FieldProblem] | None = None


class Problem(Exception):
    """An error to answer with.

    Args:
        status: of the HTTP response.
        code: stable identifier, `thing.what_is_wrong`.
        detail: names the thing, the limit and the way out.
        errors: the fields concerned.
        headers: to send along.
        facts: further members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.facts = facts

    def response(self, instance: str) -> Response:
        document: dict[str, Any] = {
            "type": f"urn:espalier:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            **self.facts,
        }
        if self.errors:
            document["errors"] = [error.model_dump() for error in self.errors]
        return JSONResponse(document, self.status, headers=self.headers, media_type=MEDIA_TYPE)


# --- what the libraries raise --------------------------------------------------------------------

_STATUS: Mapping[type[EspalierError], int] = {
    NotFound: 404,
    StateConflict: 409,
    IdempotencyConflict: 422,
    BlobTooLarge: 413,
    BlobMissing: 500,
    BlobUnreachable: 503,
    BlobCorrupt: 500,
    BlobError: 507,
}
"""The status for an error and its kinds; all others are about what was sent: 422."""


_LATER = {"Retry-After": "2"}


def refused(error: EspalierError, field: str | None = None, **facts: Any) -> Problem:
    """An error of the libraries as a problem, with its own code.

    Args:
        field: of the request, that it is about.
    """
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 422)
    message = str(error)
    fields = []
    if field is not None:
        status = 422
        _, _, way_out = message.partition(": ")
        fields = [
            FieldProblem(field=field, message=message, limit=None, way_out=way_out or message)
        ]
    return Problem(status, error.code, message, errors=fields, **facts)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, EspalierError)  # noqa: S101  (the handler's registration)
    problem = refused(error)
    if problem.status == 503:
        problem.headers |= _LATER
    return problem.response(request.url.path)


def _unavailable(request: Request, error: Exception) -> Response:
    log.error("the database does not answer: %s", error)
    detail = f"{waits_for(error) or 'database: it does not answer'}; try again in a few seconds"
    problem = Problem(503, "database.unavailable", detail, headers=_LATER)
    return problem.response(request.url.path)


def _full(request: Request, error: Exception) -> Response:
    reason = waits_for(error)
    if reason is None:
        raise error
    log.error("a file cannot be written: %s", error)
    detail = f"{reason}: try again later, or tell those who run the service"
    return Problem(507, "disk.full", detail).response(request.url.path)


def _unstorable(request: Request, error: Exception) -> Response:
    """PostgreSQL stores every character but NUL, and refuses to compare with it."""
    log.warning("the database refuses a value at %s: %s", request.url.path, type(error).__name__)
    detail = "a text of the request holds what the database cannot store: leave NUL (U+0000) out"
    return Problem(422, "request.unstorable", detail).response(request.url.path)


# --- what FastAPI and Starlette raise themselves --------------------------------------------------

_MOST_FIELDS = 50
_WORDS = {
    "ge": "at least {}",
    "gt": "greater than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "max_length": "at most {} long",
    "min_length": "at least {} long",
    "pattern": "matching {}",
    "expected": "one of {}",
    "expected_tags": "one of {}",
}


def _limit(error: Mapping[str, Any]) -> str | None:
    context = error.get("ctx") or {}
    words = [text.format(context[key]) for key, text in _WORDS.items() if key in context]
    return ", ".join(words) or None


def _path(location: Sequence[str | int]) -> str:
    """`("body", "budget", "macs", "int")` as `budget.macs`: branches of a union are no fields."""
    inner = [str(part) for part in location[1:]]
    if inner[:1] == ["strategy"]:
        del inner[1:2]  # the strategy's name, which chose the branch
    shown = [part for part in inner if part not in ("int", "str") and "[" not in part]
    return ".".join(shown) or str(location[0] if location else "body")


def _way_out(error: Mapping[str, Any], field: str, limit: str | None) -> str:
    kind = error["type"]
    if kind == "missing":
        return f"add {field}"
    if kind == "finite_number":
        return f"set {field} to a finite number, or to null if that switches it off"
    if kind == "extra_forbidden":
        return f"leave {field} out, or correct its name: GET /openapi.json lists the fields"
    if limit:
        return f"set {field} to {limit}"
    return f"correct {field}: GET /openapi.json describes it"


def field_problems(errors: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """Pydantic's errors, one for each field (a union reports one for each of its branches)."""
    found: dict[str, FieldProblem] = {}
    for error in errors:
        field, limit = _path(error["loc"]), _limit(error)
        message = str(error["msg"]).removeprefix("Value error, ")
        if field in found:
            continue
        found[field] = FieldProblem(
            field=field, message=message, limit=limit, way_out=_way_out(error, field, limit)
        )
    return list(found.values())


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (the handler's registration)
    raw = error.errors()
    if any(item["type"] == "json_invalid" for item in raw):
        problem = Problem(
            400, "request.malformed", "the body is no JSON: send one JSON object as UTF-8"
        )
    else:
        fields = field_problems(raw)  # of which strangers may have sent thousands
        first = fields[0]
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        problem = Problem(
            422,
            "request.invalid",
            f"{first.field}: {first.message}{more}; {first.way_out}",
            errors=fields[:_MOST_FIELDS],
        )
    return problem.response(request.url.path)


_HTTP = {
    400: ("request.malformed", "the request cannot be read: {}"),
    404: ("request.not_found", "there is nothing at {path}: GET /docs lists what there is"),
    405: ("request.method_not_allowed", "{path} does not take {method}: use one of {allow}"),
    413: ("request.too_large", "the body is too large: {}"),
}


def _allowed(request: Request) -> str:
    """The methods of every route at this path; Starlette knows only those of the first."""
    path = request.url.path
    operations = request.app.openapi()["paths"]
    if path in operations:  # its own before those of a template: /v1/jobs/validate
        return ", ".join(sorted(method.upper() for method in operations[path]))
    found = {"GET"} if path in ("/", "/docs", "/openapi.json") else set()
    for template, methods in operations.items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path):
            found |= {method.upper() for method in methods}
    return ", ".join(sorted(found))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (the handler's registration)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    code, text = _HTTP.get(error.status_code, ("request.failed", "{}"))
    detail = text.format(
        error.detail,
        path=request.url.path,
        method=request.method,
        allow=headers.get("Allow", ""),
    )
    return Problem(error.status_code, code, detail, headers=headers).response(request.url.path)


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  (the handler's registration)
    return error.response(request.url.path)


def _unexpected(request: Request, error: Exception) -> Response:
    """The cause goes to the log, not to the client; the server logs the traceback."""
    log.error("unexpected error at %s: %s", request.url.path, type(error).__name__)
    detail = "the service met an error that is its own: try again; its log has the cause"
    return Problem(500, "internal", detail).response(request.url.path)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(EspalierError, _refused)
    app.add_exception_handler(OSError, _full)
    for kind in AWAY:
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(Exception, _unexpected)


Answers = dict[int | str, dict[str, Any]]
BYTES: dict[str, Any] = {
    "description": "The file",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
"""For OpenAPI: an answer that is a file."""


def responses(*statuses: int, also: Mapping[int, dict[str, Any]] | None = None) -> Answers:
    """For OpenAPI: the statuses that an endpoint answers with a problem, and others."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    found: Answers = {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses)
    }
    for status, answer in (also or {}).items():
        found[status] = answer
    return found
