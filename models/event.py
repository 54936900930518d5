"""Events of jobs."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Facts, Id, Json, Seconds, clock_s


class Event(Base):
    """Something that happened to a job; `number` counts from 1 without gaps."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[Facts] = mapped_column(Json)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
