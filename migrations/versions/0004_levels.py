"""How a trial is solved for, and what a group loses at each width."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("solve", sa.String(16), nullable=True))
    op.add_column("trials", sa.Column("levels_of", sa.Integer(), nullable=True))
    op.add_column("trials", sa.Column("losses", Json, nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "losses")
    op.drop_column("trials", "levels_of")
    op.drop_column("trials", "solve")
