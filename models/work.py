"""Units of work: what workers claim."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Seconds, Serial, Words, clock_s


class Kind(StrEnum):
    """Steps of a job."""

    PREPARE = "prepare"
    ADVANCE = "advance"
    EVALUATE = "evaluate"
    TUNE = "tune"
    FINALIZE = "finalize"


class WorkState(StrEnum):
    READY = "ready"
    CLAIMED = "claimed"
    DONE = "done"
    DROPPED = "dropped"


_OPEN_STEP = text("state in ('ready', 'claimed') and kind <> 'evaluate'")


class Work(Base):
    """A unit of work.

    At most one unit of a job other than its evaluations is open at a time: two `advance` cannot
    run at once.

    Attributes:
        trial: number of the trial to evaluate.
        target: what the worker has to offer, see `models.offers`; `None` if nothing.
        fence: raised by every claim; a write with an older fence changes nothing.
        attempts: claims since the last one that made progress.
        lease_until: when a claim lapses; seconds since 1970 by the database's clock.
        not_before: earliest time of the next claim.
        waiting_for: what kept the last attempt from going on without being its fault, in words for
            users, see `models.waiting`; `None` if nothing did.
        waiting_since: when it first did.
        seconds: how long the step took whose result was published.
    """

    __tablename__ = "work"
    __table_args__ = (
        Index("ix_work_state_id", "state", "id"),
        Index("ix_work_job_id_state", "job_id", "state"),
        Index("uq_work_trial", "job_id", "trial", unique=True),
        Index(
            "uq_work_open_step",
            "job_id",
            unique=True,
            sqlite_where=_OPEN_STEP,
            postgresql_where=_OPEN_STEP,
        ),
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(16))
    trial: Mapped[int | None]
    target: Mapped[str | None] = mapped_column(String(60))
    state: Mapped[str] = mapped_column(String(16), default=WorkState.READY)
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None] = mapped_column(Seconds)
    not_before: Mapped[float] = mapped_column(Seconds, default=0.0)
    waiting_for: Mapped[str | None] = mapped_column(String(200))
    waiting_since: Mapped[float | None] = mapped_column(Seconds)
    error: Mapped[str | None] = mapped_column(Words)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
    finished_at: Mapped[float | None] = mapped_column(Seconds)
    seconds: Mapped[float | None] = mapped_column(Seconds)
