"""Rows for the tests of the record."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import uuid4

from models.database import Database
from models.jobs import create_job
from models.uploads import create_dataset, create_network


def specification(database: Database, **changes: Any) -> dict[str, Any]:
    """A specification that names a network and a dataset of its own."""
    with database.transaction() as session:
        name = str(uuid4())
        given: dict[str, Any] = {
            "name": name,
            "digest": sha256(name.encode()).hexdigest(),
            "size_bytes": 3,
            "description": {},
        }
        network, dataset = create_network(session, **given), create_dataset(session, **given)
    named = {"network": network.id, "dataset": dataset.id, "strategy": {"name": "uniform"}}
    return named | changes


def submit(database: Database, **changes: Any) -> str:
    """A job with its first unit of work; its id."""
    spec = specification(database, **changes)
    with database.transaction() as session:
        return create_job(session, spec).job.id
