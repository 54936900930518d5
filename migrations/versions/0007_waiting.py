"""What a unit of work waits for that is not its fault."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.base import Seconds

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("work", sa.Column("waiting_for", sa.String(200), nullable=True))
    op.add_column("work", sa.Column("waiting_since", Seconds, nullable=True))


def downgrade() -> None:
    op.drop_column("work", "waiting_since")
    op.drop_column("work", "waiting_for")
