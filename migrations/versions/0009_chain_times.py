"""How long layers take on targets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Seconds

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chain_times",
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("chain", sa.String(2000), nullable=False),
        sa.Column("seconds", Seconds, nullable=False),
        sa.PrimaryKeyConstraint("target", "chain", name=op.f("pk_chain_times")),
    )


def downgrade() -> None:
    op.drop_table("chain_times")
