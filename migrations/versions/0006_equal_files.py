"""Equal files are one network, and one dataset: the oldest row of each digest stays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

jobs = sa.table("jobs", sa.column("network_id", sa.String), sa.column("dataset_id", sa.String))
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
    """Let jobs name the row that stays, and drop the others.

    Specifications keep what they were asked for: checkpoints of running jobs are matched by them.
    """
    bind = op.get_bind()
    columns = ("id", "digest", "created_at")
    table = sa.table(f"{kind}s", *(sa.column(name) for name in columns))
    reference = jobs.c[f"{kind}_id"]
    for gone, kept, digest in _replacements(table):
        bind.execute(sa.update(jobs).where(reference == gone).values({reference.name: kept}))
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
