"""The migration that makes one row of equal files, on a database that has several."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

import migrations
from api.schemas import job_view
from models.blob import Blob
from models.database import Database
from models.job import Job
from models.jobs import list_jobs
from models.network import Network
from models.uploads import list_datasets, list_networks, put

SAME, OTHER, DATA = "a" * 64, "b" * 64, "c" * 64
UPLOADS = [  # kind, id, digest, when it came
    ("network", "net_2", SAME, 20.0),
    ("network", "net_1", SAME, 10.0),
    ("network", "net_3", SAME, 10.0),
    ("network", "net_4", OTHER, 5.0),
    ("dataset", "data_1", DATA, 1.0),
    ("dataset", "data_2", DATA, 2.0),
]
JOBS = {  # its network and dataset, before and after
    "job_1": (("net_1", "data_1"), ("net_1", "data_1")),
    "job_2": (("net_2", "data_2"), ("net_1", "data_1")),
    "job_3": (("net_3", "data_1"), ("net_1", "data_1")),
    "job_4": (("net_4", "data_2"), ("net_4", "data_1")),
}


def _insert(database: Database, table: str, **values: Any) -> None:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    with database.engine.begin() as connection:
        connection.execute(text(f"insert into {table} ({names}) values ({places})"), values)


@pytest.fixture
def doubled(empty: Database) -> Database:
    """A database from before, where networks and datasets of equal bytes stand side by side."""
    migrations.upgrade(empty.engine.url.render_as_string(hide_password=False), "0005")
    for digest in (SAME, OTHER, DATA):
        uses = sum(each == digest for _, _, each, _ in UPLOADS)
        _insert(empty, "blobs", digest=digest, size_bytes=1, uses=uses, changed_at=0.0)
    for kind, row_id, digest, at in UPLOADS:
        row = {"id": row_id, "name": row_id, "digest": digest, "size_bytes": 1}
        _insert(empty, f"{kind}s", **row, description="{}", created_at=at)
    for job, ((network, dataset), _) in JOBS.items():
        spec = json.dumps({"network": network, "dataset": dataset, "seed": 7})
        row = {"id": job, "state": "failed", "strategy": "uniform", "spec": spec, "stage": "queued"}
        row |= {"network_id": network, "dataset_id": dataset}
        times = {"served_at": 0.0, "created_at": 0.0, "updated_at": 0.0}
        _insert(empty, "jobs", **row, **times, fraction=0.0, last_event=0)
    return empty


def test_the_oldest_stays_and_jobs_name_it(doubled: Database) -> None:
    migrations.upgrade(doubled.engine.url.render_as_string(hide_password=False))
    with doubled.transaction(write=False) as session:
        assert [row.id for row in list_networks(session).items] == ["net_4", "net_1"]
        assert [row.id for row in list_datasets(session).items] == ["data_1"]
        for job, (asked, now) in JOBS.items():
            row = session.get_one(Job, job)
            assert (row.network_id, row.dataset_id) == now
            # By what was asked for checkpoints are matched; what is there now is shown.
            assert row.spec == {"network": asked[0], "dataset": asked[1], "seed": 7}
            shown = job_view(row, None, 0, None).spec
            assert (shown["network"], shown["dataset"]) == now
        assert len(list_jobs(session, network="net_1").items) == 3
        uses = {blob.digest: blob.uses for blob in session.scalars(select(Blob))}
    assert uses == {SAME: 1, OTHER: 1, DATA: 1}
    doubled.dispose()


def test_a_second_row_of_equal_bytes_cannot_be_made(doubled: Database) -> None:
    migrations.upgrade(doubled.engine.url.render_as_string(hide_password=False))
    given = {"name": "x", "size_bytes": 1, "description": {}}
    with doubled.transaction() as session:
        row, new = put(session, Network, digest=SAME, **given)  # type: ignore[arg-type]  # of many types
        assert (row.id, new) == ("net_1", False)
    with pytest.raises(IntegrityError), doubled.transaction() as session:
        session.add(Network(id="net_5", digest=SAME, **given))
    doubled.dispose()
