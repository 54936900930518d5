"""Counts who uses a blob, and deletes what nobody uses."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from models.base import clock_s
from models.blob import Blob
from models.blobs import BlobStore
from models.database import Database
from models.job import Job
from models.trial import Trial
from models.upserts import insert_into


def retain(session: Session, digest: str, size_bytes: int) -> None:
    """Count one more user of a stored blob."""
    session.execute(
        insert_into(session, Blob)
        .values(digest=digest, size_bytes=size_bytes, uses=1, changed_at=clock_s())
        .on_conflict_do_update(
            index_elements=[Blob.digest],
            set_={"uses": Blob.uses + 1, "changed_at": clock_s()},
        )
    )


def release(session: Session, digest: str | None) -> None:
    """Count one user less; the bytes go when `collect` finds nobody left."""
    if digest is not None:
        session.execute(
            update(Blob)
            .where(Blob.digest == digest)
            .values(uses=Blob.uses - 1, changed_at=clock_s())
            .execution_options(synchronize_session=False)
        )


def release_job(session: Session, job: Job) -> None:
    """Let go of what only a job that goes on needs.

    The weights of its family stay: of the best trial, of those that others started from, and of
    those that were solved in full.
    """
    release_weights(session, job, set(), also=job.checkpoint)
    job.checkpoint = None
    session.flush()


def release_weights(
    session: Session, job: Job, needed: Collection[int], *, also: str | None = None
) -> None:
    """Let go of the weights of trials that are neither needed nor of the job's family.

    Args:
        needed: numbers of the trials that others may still start from.
        also: another digest to release.
    """
    query = select(Trial.number, Trial.weights, Trial.solve).where(
        Trial.job_id == job.id, Trial.weights.is_not(None)
    )
    held = session.execute(query).all()
    parents = select(Trial.parent).where(Trial.job_id == job.id).distinct()
    kept = {job.best, *needed, *(session.scalars(parents) if held else ())}
    dropped = [row for row in held if row.number not in kept and row.solve != "full"]
    # The same order in every transaction: none waits for another.
    for digest in sorted(filter(None, [also, *(row.weights for row in dropped)])):
        release(session, digest)
    if dropped:
        session.execute(
            update(Trial)
            .where(Trial.job_id == job.id, Trial.number.in_([row.number for row in dropped]))
            .values(weights=None)
            .execution_options(synchronize_session="fetch")
        )


def collect(database: Database, store: BlobStore, *, grace_s: float) -> int:
    """Delete blobs that nobody has used for `grace_s`, and those that no row ever named.

    A blob is stored before the row that names it commits, so the grace must exceed the longest
    time between the two: storing a blob again renews its age.

    Returns:
        How many blobs were deleted.
    """
    with database.transaction() as session:
        session.execute(
            delete(Blob)
            .where(Blob.uses == 0, Blob.changed_at < clock_s() - grace_s)
            .execution_options(synchronize_session=False)
        )
    deleted = 0
    for digests in store.older_than(grace_s):
        with database.transaction(write=False) as session:
            named = set(session.scalars(select(Blob.digest).where(Blob.digest.in_(digests))))
        for digest in digests:
            if digest not in named and store.delete_older(digest, grace_s):
                deleted += 1
    return deleted
