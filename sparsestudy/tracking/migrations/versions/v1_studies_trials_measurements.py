"""Studies, trials, attempts and measurements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

# JSON is kept as text on every database: PostgreSQL's own type refuses NaN.


def upgrade() -> None:
    """Create the tables."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(120), nullable=False, unique=True),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("owner_host", sa.String(255)),
        sa.Column("owner_pid", sa.Integer),
        sa.Column("lease_expires", sa.Float),
        sa.Column("run_id", sa.String(64)),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("values", sa.Text, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("headlines", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("order", sa.Integer),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float),
        sa.Column("run_id", sa.String(64)),
        sa.Column("delivered", sa.Boolean, nullable=False),
        sa.UniqueConstraint("study_id", "number"),
    )
    op.create_index("ix_trials_state", "trials", ["state"])
    op.create_table(
        "attempts",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("trials.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("outcome", sa.Text),
    )
    op.create_table(
        "measurements",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("trials.id"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("delivered", sa.Boolean, nullable=False),
    )
    op.create_index("ix_measurements_delivered", "measurements", ["delivered"])
