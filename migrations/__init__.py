"""The database's schema over time: `alembic upgrade head`, or `migrations.upgrade(url)`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from models.database import Database

VERSION_TABLE = "espalier_alembic_version"
"""Not Alembic's own default, which other libraries in the same database use too."""


def config(url: str) -> Config:
    """Alembic's configuration for a database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["url"] = url
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to a revision, from wherever it is; made if it is an SQLite file.

    Args:
        url: as `models.settings.Settings.database` gives it.
    """
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take a database back to a revision; `"base"` removes every table."""
    command.downgrade(config(url), revision)


def current(engine: Engine) -> str | None:
    """The revision that a database is at; `None` if it was never upgraded."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision()


def head() -> str:
    """The revision that this code needs."""
    revision = ScriptDirectory(str(Path(__file__).parent)).get_current_head()
    assert revision is not None  # noqa: S101 - there is always one
    return revision


def ready(database: Database) -> bool:
    """Whether a database has the schema that this code needs."""
    return current(database.engine) == head()
