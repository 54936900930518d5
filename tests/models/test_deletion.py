"""A deleted job takes with it what only it names, and nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from models.artifact import Artifact
from models.blob import Blob
from models.claims import Claim, claim_next, complete, release, renew
from models.database import Database
from models.deletion import delete_job
from models.errors import LeaseLost, NotFound, StateConflict
from models.event import Event
from models.idempotency_key import IdempotencyKey
from models.job import Job
from models.jobs import create_job, get_job, request_cancel
from models.outbox import Outbox
from models.queue import enqueue_trials
from models.references import retain
from models.trial import Trial
from models.work import Work
from tests.models.records import specification, submit

SHARED, OWN, LAST = "a" * 64, "b" * 64, "c" * 64


def _filled(database: Database) -> str:
    """A canceled job with rows of every kind: a file twice, weights, a checkpoint, a message."""
    job_id = submit(database)
    with database.transaction() as session:
        enqueue_trials(session, job_id, [0, 1])
        for number, weights in enumerate((SHARED, OWN)):
            retain(session, weights, 1)
            session.add(
                Trial(
                    job_id=job_id, number=number, plan=[], tuning_steps=0, tags={}, weights=weights
                )
            )
        for name in ("a", "b"):
            retain(session, SHARED, 1)
            session.add(
                Artifact(job_id=job_id, name=name, digest=SHARED, size_bytes=1, media_type="x/y")
            )
    with database.transaction() as session:
        request_cancel(session, job_id)
        retain(session, LAST, 1)
        get_job(session, job_id).checkpoint = LAST
    return job_id


def _uses(database: Database) -> dict[str, int]:
    with database.transaction(write=False) as session:
        return {blob.digest: blob.uses for blob in session.scalars(select(Blob))}


def test_rows_go_and_files_lose_a_user(database: Database) -> None:
    doomed = _filled(database)
    before = _uses(database)
    assert (before[SHARED], before[OWN], before[LAST]) == (2, 0, 1)  # canceling drops weights
    other = _filled(database)
    doubled = _uses(database)
    with database.transaction() as session:
        delete_job(session, doomed)
    after = _uses(database)
    assert {digest: doubled[digest] - after[digest] for digest in before} == {
        **dict.fromkeys(before, 0),
        SHARED: 2,
        LAST: 1,
    }
    with database.transaction(write=False) as session:
        for rows in (Work, Event, Artifact, Trial):
            owners = set(session.scalars(select(rows.job_id)))
            assert owners == {other}
        assert session.get(Job, doomed) is None
        units = set(session.scalars(select(Work.id)))
        assert set(session.scalars(select(Outbox.work_id))) <= units


def test_weights_of_the_family_go_with_the_job(database: Database) -> None:
    job_id = submit(database)
    with database.transaction() as session:
        retain(session, OWN, 1)
        session.add(Trial(job_id=job_id, number=0, plan=[], tuning_steps=0, tags={}, weights=OWN))
        get_job(session, job_id).best = 0
        session.flush()
        request_cancel(session, job_id)
    assert _uses(database)[OWN] == 1
    with database.transaction() as session:
        delete_job(session, job_id)
    assert _uses(database)[OWN] == 0


def test_only_what_has_ended_can_be_deleted(database: Database) -> None:
    job_id = submit(database)
    with pytest.raises(StateConflict, match="cancel it first"), database.transaction() as session:
        delete_job(session, job_id)
    with database.transaction() as session:
        request_cancel(session, job_id)
        delete_job(session, job_id)
    with pytest.raises(NotFound), database.transaction() as session:
        delete_job(session, job_id)


def test_the_key_is_free_again(database: Database) -> None:
    spec = specification(database)
    with database.transaction() as session:
        first = create_job(session, spec, idempotency_key="k").job.id
    with database.transaction() as session:
        request_cancel(session, first)
        delete_job(session, first)
        assert session.scalars(select(func.count()).select_from(IdempotencyKey)).one() == 0
    with database.transaction() as session:
        second = create_job(session, spec, idempotency_key="k")
    assert second.new
    assert second.job.id != first


def test_a_running_attempt_of_a_deleted_job_is_lost(database: Database) -> None:
    job_id = submit(database)
    with database.transaction() as session:
        claim = claim_next(session, "test", 60.0)
    assert isinstance(claim, Claim)
    with database.transaction() as session:
        request_cancel(session, job_id)
        delete_job(session, job_id)
    for write in (
        lambda session: renew(session, claim, 60.0),
        lambda session: complete(session, claim),
        lambda session: release(session, claim, reason="late", max_attempts=5),
    ):
        with pytest.raises(LeaseLost), database.transaction() as session:
            write(session)
