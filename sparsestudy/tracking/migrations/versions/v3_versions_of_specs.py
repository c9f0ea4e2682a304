"""Studies that grow and can be asked to stop, many of them in one database, and ten thousand trials in a study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """Add the columns, the versions of specs and the indices."""
    op.add_column("studies", sa.Column("parent", sa.Integer))
    op.add_column("studies", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("studies", sa.Column("owner_boot", sa.String(64)))
    op.add_column("studies", sa.Column("lease_uptime", sa.Float))
    op.add_column("studies", sa.Column("stop_asked", sa.Float))
    op.add_column("trials", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.create_table(
        "spec_versions",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_index("trials_by_state", "trials", ["study_id", "state"])
    op.create_index("trials_by_order", "trials", ["study_id", "order"])
    op.create_index("trials_by_delivery", "trials", ["study_id", "delivered", "order", "epochs"])
    # Until now a ledger held one study, the first, and its finals.
    op.execute("UPDATE studies SET parent = (SELECT min(id) FROM studies) WHERE id > (SELECT min(id) FROM studies)")
    op.execute(
        "INSERT INTO spec_versions (study_id, version, digest, spec, created) "
        "SELECT id, 1, digest, spec, created FROM studies"
    )
