"""The tables of the ledger."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
"""Version 1 had no `SHAPES`; it becomes version 2 when the first packed measurement is written."""

METADATA = MetaData()
SCHEMA = Table("schema_version", METADATA, Column("version", Integer, nullable=False))
STUDIES = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(120), nullable=False, unique=True),
    Column("digest", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("fence", Integer, nullable=False, default=0),
    Column("owner_host", String(255)),
    Column("owner_pid", Integer),
    Column("lease_expires", Float),
    Column("run_id", String(64)),
)
TRIALS = Table(
    "trials",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("state", String(10), nullable=False, index=True),
    Column("values", JSON, nullable=False, default=list),
    Column("epochs", Integer, nullable=False, default=0),
    Column("headlines", JSON, nullable=False, default=dict),
    Column("failure", JSON),
    Column("order", Integer),
    Column("started", Float),
    Column("finished", Float),
    Column("run_id", String(64)),
    Column("delivered", Boolean, nullable=False, default=False),
    UniqueConstraint("study_id", "number"),
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
    Column("data", JSON, nullable=False),
    Column("delivered", Boolean, nullable=False, default=False, index=True),
)
SHAPES = Table(
    "shapes",
    METADATA,
    Column("study_id", ForeignKey("studies.id"), primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("places", JSON, nullable=False),
)
"""Names of the numbers in packed measurements; see `sparsestudy.tracking.packing`."""
