"""What the routes work with: the record, the blob store, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from api.analysis import Analyses, Analysis, readable
from api.examining import Examinations
from api.watching import Watch
from api.writing import writers
from espalier.format.package import read_package
from models.blobs import BlobStore
from models.database import Database
from models.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """One process's connections, shared by all its requests.

    Attributes:
        writers: threads of what writes to the database.
        receivers: threads of uploads, which write their files.
        streams: threads of event streams.
        generators: turns of requests for files that are made when they are asked for.
        watch: waits for jobs to change.

    Each has its own, so that none of them, nor what only reads, waits for another kind.
    """

    settings: Settings
    database: Database
    blobs: BlobStore
    analyses: Analyses
    examinations: Examinations
    watch: Watch
    writers: CapacityLimiter = field(default_factory=writers)
    receivers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
    streams: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
    generators: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))

    def analysis(self, digest: str) -> Analysis:
        """The analysis of a network in the store, whose package was checked when it came."""

        def read() -> Analysis:
            with readable(self.blobs, digest) as path:
                return Analysis.of(read_package(path).graph)

        return self.analyses.get(digest, read)


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


Services = Annotated[Service, Depends(_service)]
Limit = Annotated[int, Query(ge=1, le=200, description="the most items to return")]
Cursor = Annotated[
    str | None,
    Query(max_length=40, pattern="^[a-z0-9_]+$", description="`next_cursor` of the page before"),
]
