"""Networks and datasets: what users upload once and jobs name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.dataset import Dataset
from models.errors import NotFound
from models.ids import new_id
from models.network import Network
from models.pages import Page, page
from models.references import retain


def create_network(
    session: Session, *, name: str, digest: str, size_bytes: int, description: Mapping[str, Any]
) -> Network:
    """Record a network whose package is already in the blob store.

    Args:
        digest: SHA-256 of the package, in hex.
        description: groups, costs and exclusions, as JSON values.
    """
    retain(session, digest, size_bytes)
    network = Network(
        id=new_id("net"),
        name=name,
        digest=digest,
        size_bytes=size_bytes,
        description=dict(description),
    )
    session.add(network)
    session.flush()
    return network


def create_dataset(
    session: Session, *, name: str, digest: str, size_bytes: int, description: Mapping[str, Any]
) -> Dataset:
    """Record a dataset whose file is already in the blob store.

    Args:
        digest: SHA-256 of the file, in hex.
        description: splits, shapes and classes, as JSON values.
    """
    retain(session, digest, size_bytes)
    dataset = Dataset(
        id=new_id("data"),
        name=name,
        digest=digest,
        size_bytes=size_bytes,
        description=dict(description),
    )
    session.add(dataset)
    session.flush()
    return dataset


def get_network(session: Session, network_id: str) -> Network:
    """Raises: NotFound."""
    network = session.get(Network, network_id)
    if network is None:
        raise NotFound(f"there is no network {network_id!r}: upload it with POST /v1/networks")
    return network


def get_dataset(session: Session, dataset_id: str) -> Dataset:
    """Raises: NotFound."""
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise NotFound(f"there is no dataset {dataset_id!r}: upload it with POST /v1/datasets")
    return dataset


def find_network(session: Session, *, digest: str, name: str) -> Network | None:
    """The first network of those bytes and that name: an upload may be repeated."""
    query = select(Network).filter_by(digest=digest, name=name).order_by(Network.id)
    return session.scalars(query.limit(1)).first()


def find_dataset(session: Session, *, digest: str, name: str) -> Dataset | None:
    """The first dataset of those bytes and that name: an upload may be repeated."""
    query = select(Dataset).filter_by(digest=digest, name=name).order_by(Dataset.id)
    return session.scalars(query.limit(1)).first()


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
