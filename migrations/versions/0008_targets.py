"""What workers offer to time networks on, and the work that asks for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Json, Seconds

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "targets",
        sa.Column("id", sa.String(60), nullable=False),
        sa.Column("runtime", sa.String(20), nullable=False),
        sa.Column("version", sa.String(60), nullable=False),
        sa.Column("device", Json, nullable=False),
        sa.Column("seen_at", Seconds, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_targets")),
    )
    op.add_column("work", sa.Column("target", sa.String(60), nullable=True))


def downgrade() -> None:
    op.drop_column("work", "target")
    op.drop_table("targets")
