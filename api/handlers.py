"""Answers every error that a request may meet with a problem document (`api.problems`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.problems import FieldProblem, Problem, refused
from espalier.format.errors import EspalierError
from models.database import AWAY
from models.waiting import waits_for

log = logging.getLogger(__name__)

_LATER = {"Retry-After": "2"}


# --- what the libraries raise --------------------------------------------------------------------


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


def _field_problems(errors: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
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
        fields = _field_problems(raw)  # of which strangers may have sent thousands
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
