"""Requests that clients may repeat: the same key and request give the same row."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.errors import IdempotencyConflict
from models.idempotency_key import IdempotencyKey
from models.upserts import insert_into


def remember(session: Session, scope: str, key: str, fingerprint: str, resource_id: str) -> str:
    """Record that `key` made `resource_id`, unless it has already been used.

    A simultaneous request with the same key waits for this transaction.

    Args:
        fingerprint: SHA-256 of the request, in hex.
    Returns:
        The id of the row that the key stands for: `resource_id` if the key is new.
    Raises:
        IdempotencyConflict: the key was used for another request.
    """
    session.execute(
        insert_into(session, IdempotencyKey)
        .values(scope=scope, key=key, fingerprint=fingerprint, resource_id=resource_id)
        .on_conflict_do_nothing()
    )
    row = session.scalars(select(IdempotencyKey).filter_by(scope=scope, key=key)).one()
    if row.fingerprint != fingerprint:
        raise IdempotencyConflict(
            f"idempotency key {key!r} was used for another request, which made "
            f"{row.resource_id}: use a new key for a new request"
        )
    return row.resource_id
