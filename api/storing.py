"""From a file that arrived to its row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from api.dependencies import Service
from api.uploads import Received
from models.dataset import Dataset
from models.network import Network
from models.uploads import find, put

Upload = TypeVar("Upload", Network, Dataset)
V = TypeVar("V")


def store(
    service: Service,
    received: Received,
    kind: type[Upload],
    describe: Callable[[], tuple[str, Mapping[str, Any]]],
    view: Callable[[Upload], V],
) -> tuple[V, bool]:
    """The view of an upload, and whether it is new: the same bytes are one, whatever their name.

    What is known is stored again all the same: its blob may have been damaged since.

    Args:
        describe: gives its name and its description; raises if it cannot be used.
    """
    stored = received.stored
    with service.database.transaction(write=False) as session:
        known = find(session, kind, stored.digest)
    if known is not None:
        received.keep()
        return view(known), False
    name, description = describe()
    received.keep()
    with service.database.transaction() as session:
        row, new = put(
            session,
            kind,
            name=name,
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            description=description,
        )
        return view(row), new
