"""Equal files are one network, and one dataset: the oldest row of each digest stays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Json

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

jobs = sa.table(
    "jobs",
    sa.column("id", sa.String),
    sa.column("network_id", sa.String),
    sa.column("dataset_id", sa.String),
    sa.column("spec", Json),
)
blobs = sa.table("blobs", sa.column("digest", sa.String), sa.column("uses", sa.Integer))


def _replacements(table: sa.TableClause) -> list[tuple[str, str, str]]:
    """Ids of the rows that go, with those that stay and their digest."""
    rows = op.get_bind().execute(
        sa.select(table.c.id, table.c.digest).order_by(table.c.created_at, table.c.id)
    )
    first: dict[str, str] = {}
    found = []
    for row_id, digest in rows:
        kept = first.setdefault(digest, row_id)
        if kept != row_id:
            found.append((row_id, kept, digest))
    return found


def _merge(kind: str) -> None:
    """Let jobs name the row that stays, in their specifications too, and drop the others."""
    bind = op.get_bind()
    columns = ("id", "digest", "created_at")
    table = sa.table(f"{kind}s", *(sa.column(name) for name in columns))
    reference = jobs.c[f"{kind}_id"]
    for gone, kept, digest in _replacements(table):
        named = bind.execute(sa.select(jobs.c.id, jobs.c.spec).where(reference == gone)).all()
        for job, spec in named:
            values = {reference.name: kept, "spec": {**spec, kind: kept}}
            bind.execute(sa.update(jobs).where(jobs.c.id == job).values(values))
        bind.execute(sa.delete(table).where(table.c.id == gone))
        bind.execute(sa.update(blobs).where(blobs.c.digest == digest).values(uses=blobs.c.uses - 1))


def upgrade() -> None:
    for kind in ("network", "dataset"):
        _merge(kind)
        op.drop_index(f"ix_{kind}s_digest", f"{kind}s")
        op.create_index(f"uq_{kind}s_digest", f"{kind}s", ["digest"], unique=True)


def downgrade() -> None:
    for kind in ("network", "dataset"):
        op.drop_index(f"uq_{kind}s_digest", f"{kind}s")
        op.create_index(f"ix_{kind}s_digest", f"{kind}s", ["digest"], unique=False)
