"""SIGTERM at any time ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sparsestudy import operations
from tests.test_studies import TINY, start, write

pytestmark = pytest.mark.study


def test_a_study_told_to_end_while_it_starts_gives_its_lease_back(home: Path, tmp_path: Path) -> None:
    """Ray and the workers take seconds to start; no trial is being trained yet."""
    driver = start(write(tmp_path, TINY), home)
    while driver.poll() is None and lease_of(home) is None:
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + err
    assert lease_of(home) is None


def lease_of(home: Path) -> float | None:
    """When the lease of the study ends, as the ledger has it, whoever holds it; None before there is one."""
    if "tiny" in operations.studies():
        with closing(sqlite3.connect(home / "tiny" / "ledger.db")) as connection, suppress(sqlite3.OperationalError):
            found = connection.execute("SELECT lease_expires FROM studies").fetchone()
            return found[0] if found else None
    return None  # or its tables are still being made
