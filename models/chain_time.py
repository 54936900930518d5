"""How long layers take on a target, as jobs have measured them."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Seconds


class ChainTime(Base):
    """Seconds of one pass through a chain of layers.

    Attributes:
        target: key of the target: runtime, version, settings and kind of device.
        chain: the layers with their widths, in words.
        seconds: as the first job measured it; so a later one decides alike.
    """

    __tablename__ = "chain_times"

    target: Mapped[str] = mapped_column(String(200), primary_key=True)
    chain: Mapped[str] = mapped_column(String(2000), primary_key=True)
    seconds: Mapped[float] = mapped_column(Seconds)
