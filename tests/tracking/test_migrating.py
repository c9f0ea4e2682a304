"""Ledgers of earlier versions: copied, brought up to date once, and continued; later ones are refused."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from sparsestudy.errors import TrackingError
from sparsestudy.scheduling.search import StudySearch
from sparsestudy.space import SearchSpace
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.packing import pack
from sparsestudy.tracking.tables import METADATA
from sparsestudy.trial import TrialState
from tests.tracking.test_ledger import SPEC, at_once, config, measurement

# What earlier versions of sparsestudy created, word for word as SQLite has it.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE studies (
    id INTEGER NOT NULL, name VARCHAR(120) NOT NULL, digest VARCHAR(16) NOT NULL, spec JSON NOT NULL,
    created FLOAT NOT NULL, fence INTEGER NOT NULL, owner_host VARCHAR(255), owner_pid INTEGER, lease_expires FLOAT,
    run_id VARCHAR(64), PRIMARY KEY (id), UNIQUE (name)
);
CREATE TABLE trials (
    id INTEGER NOT NULL, study_id INTEGER NOT NULL, number INTEGER NOT NULL, config JSON NOT NULL,
    state VARCHAR(10) NOT NULL, "values" JSON NOT NULL, epochs INTEGER NOT NULL, headlines JSON NOT NULL, failure JSON,
    "order" INTEGER, started FLOAT, finished FLOAT, run_id VARCHAR(64), delivered BOOLEAN NOT NULL,
    PRIMARY KEY (id), UNIQUE (study_id, number), FOREIGN KEY(study_id) REFERENCES studies (id)
);
CREATE INDEX ix_trials_state ON trials (state);
CREATE TABLE attempts (
    trial_id INTEGER NOT NULL, number INTEGER NOT NULL, fence INTEGER NOT NULL, started FLOAT NOT NULL, ended FLOAT,
    outcome TEXT, PRIMARY KEY (trial_id, number), FOREIGN KEY(trial_id) REFERENCES trials (id)
);
CREATE TABLE measurements (
    trial_id INTEGER NOT NULL, epoch INTEGER NOT NULL, attempt INTEGER NOT NULL, timestamp BIGINT NOT NULL,
    data JSON NOT NULL, delivered BOOLEAN NOT NULL, PRIMARY KEY (trial_id, epoch),
    FOREIGN KEY(trial_id) REFERENCES trials (id)
);
CREATE INDEX ix_measurements_delivered ON measurements (delivered);
"""
VERSION_2 = (
    VERSION_1
    + """
CREATE TABLE shapes (
    study_id INTEGER NOT NULL, id VARCHAR(16) NOT NULL, places JSON NOT NULL, PRIMARY KEY (study_id, id),
    FOREIGN KEY(study_id) REFERENCES studies (id)
);
"""
)


def old_ledger(folder: Path, version: int) -> Path:
    """A study, with its finals, of three trials: 0 is COMPLETE, 1 was RUNNING when its driver died, 2 is to come."""
    path = folder / "ledger.db"
    spec = json.dumps(SPEC.to_dict())
    data, shape = pack(measurement(0).to_dict()) if version == 2 else (measurement(0).to_dict(), None)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(VERSION_2 if version == 2 else VERSION_1)
        connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
        study = "INSERT INTO studies (id, name, digest, spec, created, fence) VALUES (?, ?, ?, ?, ?, 3)"
        connection.executemany(study, [(1, "s", SPEC.digest, spec, 100.0), (2, "s-finals", "f" * 16, spec, 200.0)])
        connection.execute("UPDATE studies SET owner_host = ?, owner_pid = 1, lease_expires = 99", ("elsewhere",))
        trial = 'INSERT INTO trials VALUES (?, 1, ?, ?, ?, ?, 1, ?, ?, ?, 100.5, ?, NULL, 0)'  # fmt: skip
        rows = [
            (1, 0, json.dumps(config(0).model_dump(mode="json")), "COMPLETE", "[0.5]", '{"a": 1.0}', "null", 0, 101.5),
            (2, 1, json.dumps(config(1).model_dump(mode="json")), "RUNNING", "[]", "{}", None, None, None),
        ]
        connection.executemany(trial, rows)
        connection.executemany("INSERT INTO attempts VALUES (?, 1, 3, 100.5, NULL, NULL)", [(1,), (2,)])
        rows = [(key, 0, 1, 1000, json.dumps(data), 0) for key in (1, 2)]
        connection.executemany("INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?)", rows)
        if shape:
            connection.execute("INSERT INTO shapes VALUES (1, ?, ?)", (shape[0], json.dumps(shape[1])))
    return path


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("version", [1, 2])
def test_a_study_of_an_earlier_version_is_continued(tmp_path: Path, version: int) -> None:
    path = old_ledger(tmp_path, version)
    before = content(path)
    with closing(Ledger.in_folder(tmp_path)) as ledger:
        record, final = ledger.studies()
        assert (record.spec, record.version, record.parent, final.parent) == (SPEC, 1, None, record.id)
        assert [(number, spec) for number, spec, _ in ledger.spec_versions(record.id)] == [(1, SPEC)]
        assert ledger.trajectory(1, 0) == ledger.trajectory(1, 1) == [measurement(0)]
        lease = ledger.lease(record)
        assert lease.fence == 4
        space = SearchSpace(arms=("none",), parameters=())
        search = StudySearch(SPEC, space, lambda number, parameters, seed: config(number), lease)
        assert search.requeued == [1]
        for number in (1, 2):
            asked = search.ask()
            assert asked is not None
            assert asked[0] == config(number)
            search.record(number, [measurement(0), measurement(1)])
            search.finish(number, TrialState.COMPLETE)
        assert search.exhausted
        trials = ledger.trials(1)
        assert [(t.state, t.order, t.attempts, t.epochs) for t in trials] == [
            (TrialState.COMPLETE, 0, 1, 1), (TrialState.COMPLETE, 1, 2, 2), (TrialState.COMPLETE, 2, 1, 2),
        ]  # fmt: skip
        assert trials[0].failure is None
    assert content(tmp_path / f"ledger.db.v{version}") == before
    assert not [*tmp_path.glob("*.part")]
    written = content(path)
    Ledger.in_folder(tmp_path).close()
    assert content(path) == written


def test_racing_processes_migrate_once(tmp_path: Path) -> None:
    old_ledger(tmp_path, 2)
    failed: list[Exception] = []

    def look() -> None:
        try:
            with closing(Ledger.in_folder(tmp_path)) as ledger:
                assert len(ledger.trials(1)) == 2
        except Exception as error:
            failed.append(error)

    at_once([look] * 6)
    assert failed == []


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = old_ledger(tmp_path, 2)
    (tmp_path / "ledger.db.v2.part").mkdir()  # where the copy is to be written
    before = content(path)
    with pytest.raises(TrackingError, match=r"cannot be copied to .*ledger\.db\.v2 before it is migrated"):
        Ledger.in_folder(tmp_path)
    assert content(path) == before


def test_a_driver_of_an_earlier_version_is_left_alone(tmp_path: Path) -> None:
    path = old_ledger(tmp_path, 2)
    with closing(sqlite3.connect(path)) as connection, connection:
        owner = (socket.gethostname(), os.getpid(), time.time() + 30)
        connection.execute("UPDATE studies SET owner_host = ?, owner_pid = ?, lease_expires = ? WHERE id = 1", owner)
    before = content(path)
    with pytest.raises(TrackingError, match=r"study 's' is being run by process \d+ on .*, with an earlier version"):
        Ledger.in_folder(tmp_path)
    assert content(path) == before


@pytest.mark.parametrize("version", [0, 99])
def test_a_ledger_of_an_unknown_version_is_refused(ledger_url: str, version: int) -> None:
    Ledger(ledger_url).close()
    engine = create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = :version"), {"version": version})
    engine.dispose()
    with pytest.raises(TrackingError, match=rf"has schema version {version}, this sparsestudy reads versions 1 to 3;"):
        Ledger(ledger_url)


def test_migrations_make_the_tables_that_are_used(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    engine = create_engine(ledger_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()
