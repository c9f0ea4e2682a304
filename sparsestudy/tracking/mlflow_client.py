"""How this project talks to MLflow: it gives up early, keeps MLflow's words off the terminal, and says what is wrong.

MLflow's settings are the process's, and the process may be somebody's notebook that logs to MLflow as well. So what is
ours holds inside `ours` only, in the thread that entered it.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from sparsestudy.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends on a server
}
"""Environment in which MLflow asks nobody else's servers and keeps to itself; read when it is imported."""
TIMEOUT = 20
"""Seconds that a server may take for an answer."""
REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Codes of errors that are about what was asked, not about the store."""
_SQLITE = "sqlite:///"
_OURS: ContextVar[bool] = ContextVar("ours", default=False)


def default_uri(folder: Path) -> str:
    """The tracking URI of a study: MLFLOW_TRACKING_URI, or the SQLite store in the study's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{folder.resolve() / 'mlflow.db'}"


def database(uri: str) -> Path | None:
    """The file of a SQLite store, None for other stores.

    Example:
        >>> database("sqlite:////tmp/mlflow.db").as_posix(), database("http://127.0.0.1:5000")
        ('/tmp/mlflow.db', None)
    """
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


@contextmanager
def ours() -> Iterator[None]:
    """Requests of this thread are tried once, and MLflow does not log; who asks decides whether to ask again.

    By itself MLflow asks seven times more, for four minutes. It also repeats what must not be: a run that a server
    made before it died would be made once more.
    """
    token = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(token)


def connect(uri: str) -> MlflowClient:
    """A client.

    Raises:
        TrackingError: The store is a SQLite file that cannot be written. MLflow would find out in minutes.
    """
    path = database(uri)
    if path is not None:
        _check(path)
    os.environ.update({**QUIET, **os.environ})
    # MLflow takes a second to import: here, where its absence holds nobody up, not at the top.
    from mlflow import MlflowClient

    _settle()
    return MlflowClient(tracking_uri=uri)


def _check(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(f"{path}: {error}") from error


def _settle() -> None:
    """Make MLflow ask which settings hold in a thread; once is enough."""
    from mlflow.utils import rest_utils

    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", 0), ("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT)):
        setting = getattr(rest_utils, name)
        if not isinstance(setting, _OfThread):
            setattr(rest_utils, name, _OfThread(setting, value))
    for handler in logging.getLogger("mlflow").handlers:
        if _loud not in handler.filters:
            handler.addFilter(_loud)


def _loud(record: logging.LogRecord) -> bool:
    return not _OURS.get()


class _OfThread:
    """A setting of MLflow that has a value of its own inside `ours`."""

    def __init__(self, setting: Any, value: int) -> None:
        self._setting, self._value = setting, value

    def get(self) -> Any:
        """The value that holds here."""
        return self._value if _OURS.get() else self._setting.get()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._setting, name)

    def __str__(self) -> str:
        return str(self._setting)


def away(error: Exception) -> bool:
    """Whether an error means that the store takes nothing now, rather than that it refused this one thing."""
    if isinstance(error, TrackingError):
        return True
    from mlflow.exceptions import MlflowException

    known = isinstance(error, MlflowException | SQLAlchemyError | OSError)
    return known and getattr(error, "error_code", None) not in REFUSALS


def reason(error: Exception) -> str:
    r"""What went wrong, in one line.

    Example:
        >>> reason(OSError("API request to … failed with … [Errno 111] Connection refused'))"))
        'Connection refused'
        >>> reason(ValueError("no such thing\nTraceback: …"))
        'ValueError: no such thing'
    """
    text = str(error)
    if found := re.search(r"\[Errno -?\d+\] ([\w ]+)", text):
        return found[1]
    if found := re.search("Connection reset by peer|Remote end closed connection|Connection aborted", text):
        return found[0]
    if "timed out" in text.lower():
        return f"no answer in {TIMEOUT} s"
    if found := re.search(r"Caused by (\w+)", text):
        return found[1]
    first = next(iter(text.strip().splitlines()), "")
    return first[:200] if isinstance(error, TrackingError) else f"{type(error).__name__}: {first[:200]}"
