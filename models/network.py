"""Uploaded networks."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Digest, Facts, Id, Json, Seconds, clock_s


class Network(Base):
    """A network that jobs may name; equal files are one network.

    Attributes:
        name: that of the first upload.
        digest: SHA-256 of the uploaded file, which is its name in the blob store.
        description: what was found in it when it came.
    """

    __tablename__ = "networks"
    __table_args__ = (Index("uq_networks_digest", "digest", unique=True),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(Digest, ForeignKey("blobs.digest"))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[Facts] = mapped_column(Json)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
