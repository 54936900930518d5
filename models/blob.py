"""Rows that count who uses a blob; the bytes are in the blob store."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Digest, Seconds, clock_s


class Blob(Base):
    """A stored blob.

    Attributes:
        references: rows that name it; at 0 it may be deleted.
        changed_at: when `references` last changed.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint('"references" >= 0', name="references"),
        Index(
            "ix_blobs_unused",
            "changed_at",
            sqlite_where=text('"references" = 0'),
            postgresql_where=text('"references" = 0'),
        ),
    )

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    references: Mapped[int]
    changed_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
