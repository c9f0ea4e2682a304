"""A database server that goes away and comes back, and one that does not; what the user reads of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from sparsestudy.errors import TrackingError
from sparsestudy.tracking import database
from sparsestudy.tracking.database import Database
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import TrialState
from tests.servers import Postgres, postgres
from tests.tracking.test_ledger import SPEC, config, measurement


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of its own, which a test may stop."""
    with postgres() as own:
        yield own


def test_a_restart_of_the_server_is_waited_out(server: Postgres) -> None:
    """Down for four seconds in the middle of a study: every write is there, once, and the lease is still held."""
    with closing(Ledger(server.database())) as ledger:
        lease = ledger.lease(ledger.create_study("s", SPEC))
        ledger.add_trials(lease, [config(0)])
        ledger.start(lease, 0)
        ledger.record(lease, 0, 1, [measurement(0)])
        server.stop()
        again = threading.Timer(4, server.start)
        again.start()
        started = time.monotonic()
        ledger.record(lease, 0, 1, [measurement(1)])
        assert time.monotonic() - started > 3
        again.join()
        assert lease.renew() is False
        ledger.finish(lease, 0, TrialState.COMPLETE, values=[0.5])
        assert ledger.trajectory(lease.study_id, 0) == [measurement(0), measurement(1)]
        assert ledger.trial(lease.study_id, 0).attempts == 1


def test_a_server_that_stays_away_is_given_up(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 1.0)
    with closing(Ledger(server.database())) as ledger:
        lease = ledger.lease(ledger.create_study("s", SPEC))
        server.stop()
        with pytest.raises(TrackingError, match=r"does not answer: .*; tried for 1 s; what it has recorded is safe"):
            ledger.add_trials(lease, [config(0)])
        server.start()
        assert ledger.trials(lease.study_id) == []


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"cannot be opened: .*refused") as caught:
        Ledger("postgresql+psycopg://somebody:secret@127.0.0.1:1/ledger")
    assert "secret" not in str(caught.value)
    assert "somebody:***@127.0.0.1" in str(caught.value)
    assert time.monotonic() - started < 30


def test_wrong_urls() -> None:
    with pytest.raises(TrackingError, match="SPARSESTUDY_DATABASE_URL is no database URL"):
        Database("nonsense")
    with pytest.raises(TrackingError, match=r"allowed are postgresql\+psycopg and sqlite"):
        Database("mysql://u:secret@host/x")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(TrackingError, match=r"needs the package psycopg; install sparsestudy\[postgres\]"):
        Database("postgresql+psycopg://host/ledger")
