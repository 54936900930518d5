"""Networks and datasets: what users upload once and jobs name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.dataset import Dataset
from models.errors import NotFound
from models.ids import new_id
from models.network import Network
from models.pages import Page, page
from models.references import release, retain

Upload = TypeVar("Upload", Network, Dataset)
_PREFIX: Mapping[type[Network | Dataset], str] = {Network: "net", Dataset: "data"}


def put(
    session: Session,
    kind: type[Upload],
    *,
    name: str,
    digest: str,
    size_bytes: int,
    description: Mapping[str, Any],
) -> tuple[Upload, bool]:
    """The row of a file that is already in the blob store, and whether it is new.

    The same bytes are one, also if two requests bring them at once: the blob's row makes the
    second one wait for the first. They keep the name that they came with first.

    Args:
        digest: SHA-256 of the file, in hex.
        description: of a network groups, costs and exclusions, of a dataset splits, shapes and
            classes; JSON values.
    """
    retain(session, digest, size_bytes)
    known = find(session, kind, digest)
    if known is not None:
        release(session, digest)
        return known, False
    row = kind(
        id=new_id(_PREFIX[kind]),
        name=name,
        digest=digest,
        size_bytes=size_bytes,
        description=dict(description),
    )
    session.add(row)
    session.flush()
    return row, True


def find(session: Session, kind: type[Upload], digest: str) -> Upload | None:
    """The upload of those bytes."""
    return session.scalars(select(kind).filter_by(digest=digest)).one_or_none()


def create_network(session: Session, **fields: Any) -> Network:
    """A network by the fields of `put`."""
    return put(session, Network, **fields)[0]


def create_dataset(session: Session, **fields: Any) -> Dataset:
    """A dataset by the fields of `put`."""
    return put(session, Dataset, **fields)[0]


def get_network(session: Session, network_id: str) -> Network:
    """The network of that id.

    Raises:
        NotFound: there is none.
    """
    network = session.get(Network, network_id)
    if network is None:
        raise NotFound(f"there is no network {network_id!r}: upload it with POST /v1/networks")
    return network


def get_dataset(session: Session, dataset_id: str) -> Dataset:
    """The dataset of that id.

    Raises:
        NotFound: there is none.
    """
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise NotFound(f"there is no dataset {dataset_id!r}: upload it with POST /v1/datasets")
    return dataset


def list_networks(
    session: Session, *, limit: int = 50, cursor: str | None = None, name: str | None = None
) -> Page[Network]:
    """Networks, newest first; `name` keeps those of exactly that name."""
    return page(session, Network, limit, cursor, {"name": name})


def list_datasets(
    session: Session, *, limit: int = 50, cursor: str | None = None, name: str | None = None
) -> Page[Dataset]:
    """Datasets, newest first; `name` keeps those of exactly that name."""
    return page(session, Dataset, limit, cursor, {"name": name})
