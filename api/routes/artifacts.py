"""Result files: list and download, with ranges and digests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from api.dependencies import Service, Services
from api.headers import NotSatisfiable, byte_range, file_headers, matches
from api.problems import BYTES, Problem, responses
from api.schemas import ArtifactList, artifact_view
from models.artifact import Artifact
from models.jobs import artifacts_of, get_artifact, get_job

router = APIRouter(prefix="/v1/jobs", tags=["results"])

_DOWNLOAD = responses(
    404,
    416,
    also={
        200: BYTES,
        206: {**BYTES, "description": "The part that Range asked for"},
        304: {"description": "Not changed since the given ETag"},
    },
)

Range = Annotated[str | None, Header(description="as `bytes=1000-`")]
Condition = Annotated[str | None, Header()]


@router.get("/{job}/artifacts", operation_id="listArtifacts", responses=responses(404))
def list_all(job: str, service: Services) -> ArtifactList:
    """The job's result files; none before it succeeded."""
    with service.database.transaction(write=False) as session:
        get_job(session, job)
        return ArtifactList(items=[artifact_view(row) for row in artifacts_of(session, job)])


def _headers(row: Artifact) -> dict[str, str]:
    return file_headers(row.name, row.digest) | {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def _row(service: Service, job: str, name: str) -> Artifact:
    with service.database.transaction(write=False) as session:
        return get_artifact(session, job, name)


def _opened(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, the first one read now: a missing blob is an answer, not a broken one."""
    first = next(pieces, None)
    return itertools.chain(() if first is None else (first,), pieces)


@router.get(
    "/{job}/artifacts/{name}",
    operation_id="downloadArtifact",
    response_class=StreamingResponse,
    responses=_DOWNLOAD,
)
def download(
    job: str,
    name: str,
    service: Services,
    range: Range = None,
    if_range: Condition = None,
    if_none_match: Condition = None,
) -> Response:
    """A result file, or a range of it.

    The stored bytes are checked against the digest. If they are damaged, a range is answered with
    an error, and a whole file breaks off before its last bytes instead of ending well.
    """
    row = _row(service, job, name)
    headers = _headers(row)
    if if_none_match is not None and matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    part = None
    if if_range is None or if_range.strip() == headers["ETag"]:
        try:
            part = byte_range(range, row.size_bytes)
        except NotSatisfiable:
            raise Problem(
                416,
                "artifact.range",
                f"{name} has {row.size_bytes} bytes, and {str(range)[:60]} begins behind them: "
                "ask for less, or for all of it",
                headers={"Content-Range": f"bytes */{row.size_bytes}"},
            ) from None
    start, stop = part or (0, row.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size_bytes}"
    return StreamingResponse(
        _opened(service.blobs.read(row.digest, start, stop)),
        status_code=206 if part else 200,
        headers=headers,
        media_type=row.media_type,
    )


@router.head(
    "/{job}/artifacts/{name}",
    operation_id="headArtifact",
    responses=responses(404, also={200: BYTES}),
)
def head(job: str, name: str, service: Services) -> Response:
    """Size, type and digest of a result file."""
    row = _row(service, job, name)
    headers = _headers(row) | {"Content-Length": str(row.size_bytes)}
    return Response(headers=headers, media_type=row.media_type)
