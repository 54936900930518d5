"""Run by Alembic: connects to the database and applies revisions in one transaction."""

from __future__ import annotations

from alembic import context

from migrations import VERSION_TABLE
from models.database import Database
from models.settings import Settings
from models.tables import metadata


def _run() -> None:
    url = context.config.attributes.get("url") or Settings().database
    database = Database(url)
    try:
        with database.writing.connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=metadata,
                version_table=VERSION_TABLE,
                render_as_batch=connection.dialect.name == "sqlite",
                compare_type=True,
            )
            with context.begin_transaction():
                if connection.dialect.name == "postgresql":
                    # Two deployments at once: the second waits, then finds nothing to do.
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7026141)")
                context.run_migrations()
    finally:
        database.dispose()


if context.is_offline_mode():
    raise SystemExit("revisions are applied to a database that is reachable: leave out --sql")
_run()
