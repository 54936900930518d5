"""Times of layers on targets, kept for later jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.chain_time import ChainTime
from models.upserts import insert_into

_AT_ONCE = 100  # rows of a statement: SQLite binds so many values


def known_times(
    session: Session, target: str, chains: Collection[str] | None = None
) -> dict[str, float]:
    """Seconds of chains that were measured on a target, by chain.

    Args:
        target: the target's key.
        chains: those that are asked for; all if `None`.
    """
    query = select(ChainTime.chain, ChainTime.seconds).where(ChainTime.target == target)
    if chains is None:
        return {row.chain: row.seconds for row in session.execute(query)}
    found: dict[str, float] = {}
    wanted = sorted(chains)
    for start in range(0, len(wanted), _AT_ONCE):
        some = query.where(ChainTime.chain.in_(wanted[start : start + _AT_ONCE]))
        found |= {row.chain: row.seconds for row in session.execute(some)}
    return found


def keep_times(session: Session, target: str, seconds: Mapping[str, float]) -> None:
    """Keep what was measured; what is known already stays, so that later jobs decide alike."""
    rows = [
        {"target": target, "chain": chain, "seconds": taken}
        for chain, taken in sorted(seconds.items())  # in one order, so that no two writers wait
    ]
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        session.execute(insert_into(session, ChainTime).values(some).on_conflict_do_nothing())
