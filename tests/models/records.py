"""Rows for the tests of the record."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from models.database import Database
from models.jobs import create_job
from models.uploads import create_dataset, create_network

DIGEST = "ab" * 32


def specification(database: Database, **changes: Any) -> dict[str, Any]:
    """A specification that names a network and a dataset of its own."""
    with database.transaction() as session:
        given: dict[str, Any] = {"digest": DIGEST, "size_bytes": 3, "description": {}}
        network = create_network(session, name=f"network {uuid4()}", **given)
        dataset = create_dataset(session, name=f"data {uuid4()}", **given)
    named = {"network": network.id, "dataset": dataset.id, "strategy": {"name": "uniform"}}
    return named | changes


def submit(database: Database, **changes: Any) -> str:
    """A job with its first unit of work; its id."""
    spec = specification(database, **changes)
    with database.transaction() as session:
        return create_job(session, spec).job.id
