"""From a file that arrived to its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread
from fastapi import Request, Response
from sqlalchemy.orm import Session

from api.dependencies import Service
from api.replies import reply
from api.uploads import Received
from api.views import FileView
from api.writing import committed, write
from models.dataset import Dataset
from models.network import Network
from models.uploads import find, put
from search.examination.bounds import Kind
from search.examination.process import Examined

Upload = TypeVar("Upload", Network, Dataset)

_KIND: dict[type[Network] | type[Dataset], Kind] = {Network: "network", Dataset: "dataset"}


def _known(
    service: Service, received: Received, kind: type[Upload], view: Callable[[Upload], FileView]
) -> Response | None:
    """What is there already is stored again: its blob may have been damaged since."""
    with service.database.transaction(write=False) as session:
        row = find(session, kind, received.stored.digest)
        found = None if row is None else reply(view(row), headers=_location(row))
    if found is not None:
        received.keep()
    return found


def _put(
    service: Service,
    received: Received,
    kind: type[Upload],
    found: Examined,
    view: Callable[[Upload], FileView],
) -> Response:
    stored = received.stored
    default = f"{_KIND[kind]}-{stored.digest[:8]}"

    def act(session: Session) -> Response:
        row, new = put(
            session,
            kind,
            name=received.name or found.name or received.file_name or default,
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            description=found.description,
        )
        return reply(view(row), 201 if new else 200, headers=_location(row))

    return committed(service, act)


def _location(row: Network | Dataset) -> dict[str, str]:
    return {"Location": f"/v1/{row.__tablename__}/{row.id}"}


async def store(
    request: Request,
    service: Service,
    received: Received,
    kind: type[Upload],
    view: Callable[[Upload], FileView],
) -> Response:
    """The view of an upload: 201 if it is new, 200 for bytes that are known, whatever their name.

    Its name is the one given with it, else the file's own, else that of the form's file.

    Raises:
        Refused: it cannot be used.
    """
    known = await to_thread.run_sync(
        _known, service, received, kind, view, limiter=service.receivers
    )
    if known is not None:
        return known
    found = await service.examinations.examine(request, _KIND[kind], received.path)
    await to_thread.run_sync(received.keep, limiter=service.receivers)
    return await write(service, _put, service, received, kind, found, view)
