"""What the widths that a job's groups may keep follow from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Json

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("widths", Json, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "widths")
