"""Pages of rows, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.dataset import Dataset
from models.job import Job
from models.network import Network

Row = TypeVar("Row", Job, Network, Dataset)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and where the next ones start: `None` at the end."""

    items: list[Row]
    cursor: str | None


def page(
    session: Session,
    table: type[Row],
    limit: int,
    cursor: str | None,
    equal: Mapping[str, str | None],
) -> Page[Row]:
    """Rows in descending order of their ids, which sort by time.

    A row that is made meanwhile does not shift the pages.

    Args:
        cursor: of the page before; `None` for the first page.
        equal: column name to value; `None` does not filter.
    """
    query = select(table).order_by(table.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(table.id < cursor)
    query = query.filter_by(**{name: value for name, value in equal.items() if value is not None})
    rows = list(session.scalars(query))
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id if more else None)
