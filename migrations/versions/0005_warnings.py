"""What looks wrong in a job's network or data."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Json

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("warnings", Json, nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "warnings")
