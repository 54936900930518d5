"""The score that a trial has to beat."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("floor", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "floor")
