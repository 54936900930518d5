"""What workers offer to run and time networks on."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Facts, Json, Seconds


class Target(Base):
    """A runtime on a device, offered by the workers there.

    Attributes:
        id: the runtime and the device's id, as `onnxruntime@dev_...`.
        version: of the runtime, as last offered.
        device: what it computes on, as JSON values.
        seen_at: when a worker last offered it.
    """

    __tablename__ = "targets"

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    runtime: Mapped[str] = mapped_column(String(20))
    version: Mapped[str] = mapped_column(String(60))
    device: Mapped[Facts] = mapped_column(Json)
    seen_at: Mapped[float] = mapped_column(Seconds)
