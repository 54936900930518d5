"""What all rows share: naming of constraints, types, and the database's clock.

Times are seconds since 1970 as floats, always by the database's clock, so that leases of workers
on machines with different clocks compare.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Double,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from espalier.text import mended

Facts = dict[str, Any]
"""A JSON object."""

Id = String(40)
Digest = String(64)
Seconds: Double[float] = Double()
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only INTEGER keys


class Words(TypeDecorator[str]):
    """Text of any length for people, such as a message, whatever strange names it quotes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else str(mended(value))


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class clock_s(GenericFunction[float]):  # noqa: N801 - written as an SQL function
    """Now, in seconds since 1970, by the database's clock."""

    type = Seconds
    inherit_cache = True


@compiles(clock_s, "sqlite")
def _sqlite_clock(_element: clock_s, _compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock_s, "postgresql")
def _postgresql_clock(_element: clock_s, _compiler: SQLCompiler, **_: Any) -> str:
    # now() would be the start of the transaction.
    return "extract(epoch from clock_timestamp())::double precision"
