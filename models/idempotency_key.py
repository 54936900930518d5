"""Keys of requests that clients may repeat."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Digest, Id, Seconds, clock_s


class IdempotencyKey(Base):
    """A request that was answered.

    Attributes:
        scope: what the key is for, such as `"jobs"`.
        fingerprint: SHA-256 of the request.
        resource_id: the row that it made.
    """

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Digest)
    resource_id: Mapped[str] = mapped_column(Id)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
