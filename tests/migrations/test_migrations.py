"""The migrated schema is the one that the rows declare, on both kinds of database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

import migrations
from models.database import Database
from models.tables import metadata

ROOT = Path(__file__).parents[2]


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def test_up_down_up(empty: Database) -> None:
    url = _url(empty)
    assert not migrations.ready(empty)
    migrations.upgrade(url)
    assert _tables(empty) == {*metadata.tables, migrations.VERSION_TABLE}
    assert migrations.ready(empty)
    migrations.upgrade(url)  # nothing to do
    migrations.downgrade(url, "base")
    assert _tables(empty) == {migrations.VERSION_TABLE}
    assert not migrations.ready(empty)
    migrations.upgrade(url)
    assert _tables(empty) == {*metadata.tables, migrations.VERSION_TABLE}
    empty.dispose()


def test_rows_and_migrations_agree(empty: Database) -> None:
    migrations.upgrade(_url(empty))
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
    with empty.engine.connect() as connection:
        migrated = {
            (index["name"], tuple(index["column_names"]), bool(index["unique"]))
            for table in metadata.tables
            for index in inspect(connection).get_indexes(table)
        }
    declared = {
        (index.name, tuple(column.name for column in index.columns), bool(index.unique))
        for table in metadata.tables.values()
        for index in table.indexes
    }
    assert migrated == declared
    empty.dispose()


def test_another_librarys_version_table_is_left_alone(empty: Database) -> None:
    with empty.engine.begin() as connection:
        connection.execute(text("create table alembic_version (version_num varchar(32))"))
        connection.execute(text("insert into alembic_version values ('theirs')"))
    migrations.upgrade(_url(empty))
    with empty.engine.connect() as connection:
        assert connection.scalar(text("select version_num from alembic_version")) == "theirs"
    empty.dispose()


def test_the_command_line_takes_the_database_from_the_settings(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env=os.environ | {"ESPALIER_DATABASE_URL": url},
        check=True,
        capture_output=True,
    )
    database = Database(url)
    assert migrations.ready(database)
    database.dispose()
