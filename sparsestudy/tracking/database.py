"""The database under the ledger: its transactions, its clock, and what happens while it does not answer.

SQLite is a file, and takes one writer at a time. A PostgreSQL server may be restarted under a running study: whoever
reads or writes then waits for it, up to `PATIENCE` seconds, and does the whole transaction again.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from sparsestudy.errors import TrackingError

logger = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds a database server may be away before a read or a write gives up."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Self = TypeVar("_Self")
_GOING = ("57P01", "57P02", "57P03")
"""SQLSTATEs of a server that is going down or coming up; those of a broken connection begin with 08."""


class ServerAwayError(TrackingError):
    """The database server does not answer; it may be back in a moment."""


class Database:
    """Connections to a database.

    Args:
        url: An SQLAlchemy URL, of SQLite or PostgreSQL.

    Attributes:
        name: The URL for messages, without its password.
        server: Whether it is a server, with a clock of its own, rather than a file.

    Raises:
        TrackingError: The URL is none, or nothing here can speak to such a database.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise TrackingError(
                "SPARSESTUDY_DATABASE_URL is no database URL; it has the form postgresql+psycopg://USER@HOST/DATABASE"
            ) from None
        self.name = parsed.render_as_string(hide_password=True)
        self.server = parsed.get_backend_name() != "sqlite"
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise TrackingError(f"the ledger {self.name}: allowed are postgresql+psycopg and sqlite")
        try:
            self.engine = _postgresql(url) if self.server else _sqlite(url)
        except ModuleNotFoundError as error:
            raise TrackingError(
                f"the ledger {self.name} needs the package {error.name}; install sparsestudy[postgres] and write the "
                f"URL as postgresql+psycopg://..."
            ) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._explained(), self.engine.connect() as connection:
            yield connection.execution_options(reads=True)

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A transaction that may write; rolled back if the block raises."""
        with self._explained(), self.engine.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """Seconds since 1970 by the clock that everybody who uses this database has in common.

        Of a server that is its own: what the clock of a client does, moves no lease.
        """
        if not self.server:
            return time.time()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the database refuses, such as a write to a full disk, in the user's words."""
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            if self.server and _is_away(error):
                raise ServerAwayError(f"the ledger {self.name} does not answer: {_brief(error)}") from error
            raise TrackingError(
                f"the ledger {self.name} did not take a read or a write: {_brief(error)}; what it has recorded is "
                f"safe: mend the cause and run the same command again"
            ) from error


def persistent(method: Callable[Concatenate[_Self, _P], _R]) -> Callable[Concatenate[_Self, _P], _R]:
    """Do a method, one whole transaction, again for as long as the database server is away, up to `PATIENCE` seconds.

    The connection may have broken after the server committed and before it said so: what is done again must find that
    out from the database.
    """

    @functools.wraps(method)
    def again(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        started, pause = time.monotonic(), 0.1
        while True:
            try:
                return method(self, *args, **kwargs)
            except ServerAwayError as error:
                if time.monotonic() + pause - started > PATIENCE:
                    raise TrackingError(
                        f"{error}; tried for {PATIENCE:.0f} s; what it has recorded is safe: start it and run the same "
                        f"command again"
                    ) from error
                if pause == 0.1:
                    logger.warning("%s; trying again for %.0f s", error, PATIENCE)
                time.sleep(pause)
                pause = min(2.0, 2 * pause)

    return again


def _is_away(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state.startswith("08") or state in _GOING


def _brief(error: DBAPIError) -> str:
    """The first line of what the database said; the others are hints for its administrator."""
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]


def _postgresql(url: str) -> Engine:
    # A connection that lay idle while the server was restarted is noticed before it is used, and so is a dead network.
    patience = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return create_engine(url, pool_pre_ping=True, connect_args={**patience, "application_name": "sparsestudy"})


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        # WAL lets the tracker read while the driver writes; NORMAL survives the death of any process.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer inside a transaction can deadlock; take the write lock at once.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if not connection.get_execution_options().get("reads") else "BEGIN"
        )

    return engine
