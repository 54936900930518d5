"""Jobs."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, Digest, Facts, Id, Json, Seconds, Words, clock_s
from models.dataset import Dataset
from models.network import Network


class State(StrEnum):
    """Where a job is; `models.states` says what may follow what."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED})


class Job(Base):
    """A job, and everything about it that is not a list.

    Attributes:
        spec: the specification, as validated.
        strategy: its strategy's name.
        prepared: what `prepare` found: baseline, costs, limits, groups.
        snapshot: the strategy's state after the last `advance`, as JSON text: every digit must
            come back.
        best: number of the best trial so far.
        checkpoint: digest of the fine-tuning's last checkpoint.
        warnings: what looks wrong in its network, data or result, each with `code` and `message`;
            `None` before it is prepared.
        widths: what the widths that its groups may keep follow from; `None` before it is prepared,
            and where `rounding.multiple` is a number.
        summary: the outcome, once it succeeded.
        error_code: why it failed, stable; `error` says it in words.
        stage: what it does now; `fraction` says how much of that is done, 0 to 1.
        served_at: when one of its units was last claimed; jobs take turns.
        last_event: number of its last event; changes with everything a client can see.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_state_id", "state", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    strategy: Mapped[str] = mapped_column(String(40))
    spec: Mapped[Facts] = mapped_column(Json)
    network_id: Mapped[str] = mapped_column(Id, ForeignKey("networks.id"), index=True)
    dataset_id: Mapped[str] = mapped_column(Id, ForeignKey("datasets.id"), index=True)
    prepared: Mapped[Facts | None] = mapped_column(Json, deferred=True)
    snapshot: Mapped[str | None] = mapped_column(Text, deferred=True)
    best: Mapped[int | None]
    checkpoint: Mapped[str | None] = mapped_column(Digest, ForeignKey("blobs.digest"), index=True)
    warnings: Mapped[list[Facts] | None] = mapped_column(Json)
    widths: Mapped[Facts | None] = mapped_column(Json)
    summary: Mapped[Facts | None] = mapped_column(Json)
    error_code: Mapped[str | None] = mapped_column(String(80))
    error: Mapped[str | None] = mapped_column(Words)
    stage: Mapped[str] = mapped_column(String(40), default="queued")
    fraction: Mapped[float] = mapped_column(default=0.0)
    served_at: Mapped[float] = mapped_column(Seconds, default=0.0)
    last_event: Mapped[int] = mapped_column(default=0)
    cancel_requested_at: Mapped[float | None] = mapped_column(Seconds)
    pause_requested_at: Mapped[float | None] = mapped_column(Seconds)
    created_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())
    started_at: Mapped[float | None] = mapped_column(Seconds)
    finished_at: Mapped[float | None] = mapped_column(Seconds)
    updated_at: Mapped[float] = mapped_column(Seconds, insert_default=clock_s())

    network: Mapped[Network] = relationship()
    dataset: Mapped[Dataset] = relationship()

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in TERMINAL
