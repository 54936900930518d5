"""Trials of jobs."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Digest, Facts, Id, Json, Seconds, clock_s


class Trial(Base):
    """A proposal of a strategy and, when `finished_at` is set, what became of it.

    Attributes:
        number: counts the strategy's proposals from 0.
        plan: channels kept per group.
        parent: number of the trial whose weights it starts from.
        floor: the score to beat, below which it may be given up early.
        solve: how its layers are solved for; one that is solved in full keeps its weights.
        levels_of: the group whose widths it measures.
        losses: what it found of them.
        score: higher is better; `None` if unfinished, or failed for good.
        kept: indices of the kept channels per group.
        weights: digest of its tuned or solved weights: of every trial that may be needed while the
            search goes on, afterwards of the job's family.
        told: whether the strategy knows the outcome.
    """

    __tablename__ = "trials"
    __table_args__ = (
        Index(
            "ix_trials_untold",
            "job_id",
            sqlite_where=text("not told"),
            postgresql_where=text("not told"),
        ),
    )

    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    plan: Mapped[list[int]] = mapped_column(Json)
    parent: Mapped[int | None]
    tuning_steps: Mapped[int]
    tags: Mapped[Facts] = mapped_column(Json)
    floor: Mapped[float | None]
    solve: Mapped[str | None] = mapped_column(String(16))
    levels_of: Mapped[int | None]
    score: Mapped[float | None]
    metrics: Mapped[Facts | None] = mapped_column(Json)
    cost: Mapped[Facts | None] = mapped_column(Json)
    kept: Mapped[list[list[int]] | None] = mapped_column(Json, deferred=True)
    losses: Mapped[list[float] | None] = mapped_column(Json, deferred=True)
    weights: Mapped[str | None] = mapped_column(Digest, ForeignKey("blobs.digest"), index=True)
    told: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
    finished_at: Mapped[float | None] = mapped_column(Seconds)

    @property
    def fetchable(self) -> bool:
        """Whether its network can be made again: from its weights, or from the original's."""
        return self.score is not None and (self.weights is not None or self.tuning_steps == 0)
