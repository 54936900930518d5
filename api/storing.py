"""From a file that arrived to its row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from api.dependencies import Service
from api.uploads import Received
from api.writing import write
from models.dataset import Dataset
from models.network import Network
from models.uploads import find, put
from search.examination.bounds import Kind
from search.examination.process import Examined

Upload = TypeVar("Upload", Network, Dataset)
V = TypeVar("V")

_KIND: dict[type[Network] | type[Dataset], Kind] = {Network: "network", Dataset: "dataset"}


def _known(
    service: Service, received: Received, kind: type[Upload], view: Callable[[Upload], V]
) -> V | None:
    """What is there already is stored again: its blob may have been damaged since."""
    with service.database.transaction(write=False) as session:
        known = find(session, kind, received.stored.digest)
    if known is None:
        return None
    received.keep()
    return view(known)


def _put(
    service: Service,
    received: Received,
    kind: type[Upload],
    found: Examined,
    view: Callable[[Upload], V],
) -> tuple[V, bool]:
    stored = received.stored
    default = f"{_KIND[kind]}-{stored.digest[:8]}"
    received.keep()
    with service.database.transaction() as session:
        row, new = put(
            session,
            kind,
            name=received.name or found.name or received.file_name or default,
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            description=found.description,
        )
        return view(row), new


async def store(
    request: Request,
    service: Service,
    received: Received,
    kind: type[Upload],
    view: Callable[[Upload], V],
) -> tuple[V, bool]:
    """The view of an upload, and whether it is new: the same bytes are one, whatever their name.

    Its name is the one given with it, else the file's own, else that of the form's file.

    Raises:
        Refused: it cannot be used.
    """
    known = await asyncio.to_thread(_known, service, received, kind, view)
    if known is not None:
        return known, False
    found = await service.examinations.examine(request, _KIND[kind], received.path)
    return await write(service, _put, service, received, kind, found, view)
