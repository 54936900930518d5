"""Rows that count who uses a blob; the bytes are in the blob store."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Digest, Seconds, clock_s


class Blob(Base):
    """A stored blob.

    Attributes:
        uses: rows that name it; at 0 it may be deleted.
        changed_at: when `uses` last changed.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("uses >= 0", name="uses"),
        Index(
            "ix_blobs_unused",
            "changed_at",
            sqlite_where=text("uses = 0"),
            postgresql_where=text("uses = 0"),
        ),
    )

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    uses: Mapped[int]
    changed_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
