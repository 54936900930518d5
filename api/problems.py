"""Errors as RFC 9457 problem documents, every one of them with a stable `code`.

An error names the thing, the limit and the way out. `code` is what programs compare; `detail` is
for people and may be reworded at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from espalier.format.errors import EspalierError
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

MEDIA_TYPE = "application/problem+json"


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


# --- OpenAPI ------------------------------------------------------------------------------------

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
