"""Brings a ledger that an earlier version of sparsestudy wrote up to date where it is, once, whoever opens it."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, delete, inspect, select, text
from sqlalchemy.exc import DBAPIError

from sparsestudy.errors import TrackingError
from sparsestudy.tracking.database import Database
from sparsestudy.tracking.leases import held
from sparsestudy.tracking.tables import SCHEMA, SCHEMA_VERSION, STUDIES

logger = logging.getLogger(__name__)
SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x73706172  # of PostgreSQL, of this database only: "spar"


def bring_up_to_date(database: Database) -> None:
    """Create the tables, or migrate them; a file is copied first, to ``ledger.db.v1`` if it is of version 1.

    Raises:
        TrackingError: The database cannot be opened, was written by a later version, or a driver of an earlier version
            is still writing to it.
    """
    try:
        with database.engine.connect() as connection:
            found = _version(connection.execution_options(reads=True))
        if found != SCHEMA_VERSION:
            with database.engine.begin() as connection:
                _migrate(database, connection)
    except DBAPIError as error:
        raise TrackingError(f"the ledger {database.name} cannot be opened: {error.orig}") from error


def _migrate(database: Database, connection: Connection) -> None:
    """In one transaction that nobody else can begin: SQLite has but one that writes, PostgreSQL is asked for a lock."""
    if database.server:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = _version(connection)
    if found == SCHEMA_VERSION:
        return  # somebody else was faster
    if found is not None:
        _refuse(database, connection, found)
        if not database.server:
            _keep_copy(Path(str(database.engine.url.database)), found)
        logger.warning("the ledger %s is brought from version %d to %d", database.name, found, SCHEMA_VERSION)
    _run_scripts(connection, found)
    connection.execute(delete(SCHEMA))
    connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))


def _version(connection: Connection) -> int | None:
    """The version of the tables, None if there are none."""
    if not inspect(connection).has_table(SCHEMA.name):
        return None
    return connection.execute(select(SCHEMA.c.version)).scalar()


def _refuse(database: Database, connection: Connection, found: int) -> None:
    if not 1 <= found < SCHEMA_VERSION:
        raise TrackingError(
            f"the ledger {database.name} has schema version {found}, this sparsestudy reads versions 1 to "
            f"{SCHEMA_VERSION}; use the version of sparsestudy that wrote it"
        )
    columns = (STUDIES.c[name] for name in ("name", "owner_host", "owner_pid", "lease_expires"))
    for row in connection.execute(select(*columns)).mappings():
        if held({**row, "owner_boot": None, "lease_uptime": None}, database.now(connection)):
            raise TrackingError(
                f"study {row['name']!r} is being run by process {row['owner_pid']} on {row['owner_host']}, with an "
                f"earlier version of sparsestudy; stop it with Ctrl-C there, then run the same command again"
            )


def _run_scripts(connection: Connection, found: int | None) -> None:
    # Imported late: a ledger that is up to date needs no Alembic.
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    scripts = list(ScriptDirectory(str(SCRIPTS)).walk_revisions())
    with Operations.context(MigrationContext.configure(connection)):
        for script in reversed(scripts):
            if found is None or int(script.revision) > found:
                script.module.upgrade()


def _keep_copy(path: Path, version: int) -> None:
    """A copy that is there whole or not at all, taken while nobody can write."""
    copy = path.with_name(f"{path.name}.v{version}")
    draft = copy.with_name(f"{copy.name}.part")
    try:
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(draft)) as target:
            source.backup(target)
        draft.replace(copy)
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(f"the ledger {path} cannot be copied to {copy} before it is migrated: {error}") from error
