"""Names of the numbers in packed measurements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Create the table; measurements from before stay as they are, names and all."""
    op.create_table(
        "shapes",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("places", sa.Text, nullable=False),
    )
