"""Answers that are encoded when they are made, so that nothing about them can fail later."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel


def reply(
    view: BaseModel, status: int = 200, *, headers: Mapping[str, str] | None = None
) -> Response:
    """The view as JSON."""
    return Response(view.model_dump_json(), status, headers=headers, media_type="application/json")
