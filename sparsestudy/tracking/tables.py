"""The tables of the ledger as they are today; `sparsestudy.tracking.migrations` has how they came about."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA_VERSION = 3
"""The last of the migrations."""


class Json(TypeDecorator[Any]):
    """Plain data as JSON text, on every database alike.

    PostgreSQL's own type refuses NaN and infinities, which a diverging trial may well have.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """What is written; None is no text at all."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """What was written."""
        return None if value is None else json.loads(value)


METADATA = MetaData()
SCHEMA = Table("schema_version", METADATA, Column("version", Integer, nullable=False))
STUDIES = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(120), nullable=False, unique=True),
    Column("digest", String(16), nullable=False),
    Column("spec", Json, nullable=False),
    Column("created", Float, nullable=False),
    Column("fence", Integer, nullable=False, default=0),
    Column("owner_host", String(255)),
    Column("owner_pid", Integer),
    Column("lease_expires", Float),
    Column("run_id", String(64)),
    Column("parent", Integer),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("owner_boot", String(64)),
    Column("lease_uptime", Float),
    Column("stop_asked", Float),
)
"""``parent`` is the study whose finals these are; ``version`` counts the specs in `SPEC_VERSIONS`."""
SPEC_VERSIONS = Table(
    "spec_versions",
    METADATA,
    Column("study_id", ForeignKey("studies.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(16), nullable=False),
    Column("spec", Json, nullable=False),
    Column("created", Float, nullable=False),
)
"""Every spec a study has had that changed what it tries: further arms, more trials."""
TRIALS = Table(
    "trials",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("config", Json, nullable=False),
    Column("state", String(10), nullable=False, index=True),
    Column("values", Json, nullable=False, default=list),
    Column("epochs", Integer, nullable=False, default=0),
    Column("headlines", Json, nullable=False, default=dict),
    Column("failure", Json),
    Column("order", Integer),
    Column("started", Float),
    Column("finished", Float),
    Column("run_id", String(64)),
    Column("delivered", Boolean, nullable=False, default=False),
    Column("version", Integer, nullable=False, server_default="1"),
    UniqueConstraint("study_id", "number"),
    Index("trials_by_state", "study_id", "state"),
    Index("trials_by_order", "study_id", "order"),
    Index("trials_by_delivery", "study_id", "delivered", "order", "epochs"),
)
ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("outcome", Text),
)
MEASUREMENTS = Table(
    "measurements",
    METADATA,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("data", Json, nullable=False),
    Column("delivered", Boolean, nullable=False, default=False, index=True),
)
SHAPES = Table(
    "shapes",
    METADATA,
    Column("study_id", ForeignKey("studies.id"), primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("places", Json, nullable=False),
)
"""Names of the numbers in packed measurements; see `sparsestudy.tracking.packing`."""
