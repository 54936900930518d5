"""Messages that wait to be sent: written with the work they announce, deleted once sent."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Seconds, Serial, clock_s


class Outbox(Base):
    """A unit of work that is still to be announced to the workers."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    work_id: Mapped[int] = mapped_column(Serial, ForeignKey("work.id"))
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
