"""The check that every fault shares finds what is wrong with a study: one that was left alone is spoilt on purpose."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import invariants
from tests.faults.harness import STEPS, Run

pytestmark = [pytest.mark.study, pytest.mark.faults, pytest.mark.timeout(900)]


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        changed = connection.execute(statement).rowcount
    assert changed > 0, statement


def in_ledger(statement: str) -> Callable[[Run], None]:
    return lambda run: execute(run.study / "ledger.db", statement)


def in_mlflow(statement: str) -> Callable[[Run], None]:
    return lambda run: execute(run.study / "mlflow.db", statement)


def trained_again(run: Run) -> None:
    path = next(iter(run.steps_folder.iterdir()))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, *lines[-STEPS:]]))


def without_a_step(run: Run) -> None:
    path = next(iter(run.steps_folder.iterdir()))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def doubled(run: Run) -> None:
    client = invariants.MlflowClient(run.uri)
    first = invariants.runs_of(run, "trial")[0]
    client.create_run(first.info.experiment_id, tags=first.data.tags)


SPOILT: dict[str, Callable[[Run], None]] = {
    "an epoch is not recorded": in_ledger("DELETE FROM measurements WHERE trial_id = 3 AND epoch = 2"),
    "an epoch is not delivered": in_ledger("UPDATE measurements SET delivered = 0 WHERE trial_id = 3 AND epoch = 2"),
    "a trial is not complete": in_ledger("UPDATE trials SET state = 'RUNNING' WHERE number = 3"),
    "a trial is missing": in_ledger("DELETE FROM trials WHERE number = 3"),
    "a result differs": in_ledger("UPDATE trials SET \"values\" = '[0.25]' WHERE number = 3"),
    "an attempt is open": in_ledger("UPDATE attempts SET ended = NULL WHERE trial_id = 3"),
    "a lease is left": in_ledger("UPDATE studies SET lease_expires = 1"),
    "a point is missing": in_mlflow("DELETE FROM metrics WHERE rowid = (SELECT min(rowid) FROM metrics)"),
    "points are doubled": in_mlflow(
        "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics WHERE step = 2"
    ),
    "a run is doubled": doubled,
    "a run is not finished": in_mlflow("UPDATE runs SET status = 'RUNNING' WHERE name LIKE 'none%'"),
    "a step was trained again": trained_again,
    "a step was never trained": without_a_step,
    "a draft is left": lambda run: (run.study / "best.yaml.part").touch(),
    "a checkpoint is left": lambda run: (run.study / "checkpoints" / "shaken" / "0").mkdir(parents=True),
}


@pytest.fixture
def copy(calm: invariants.Outcome, calm_folder: Path, tmp_path: Path) -> Run:
    """The study that was left alone, to be spoilt."""
    return Run(folder=Path(shutil.copytree(calm_folder, tmp_path / "copy")))


def test_a_study_that_was_left_alone_passes(calm: invariants.Outcome, copy: Run) -> None:
    account = invariants.check(copy, calm)
    assert account == invariants.Account(lost=0, doubled=0, repeated=0.0)


@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_wrong_is_found(how: str, calm: invariants.Outcome, copy: Run) -> None:
    SPOILT[how](copy)
    with pytest.raises((AssertionError, KeyError)):
        invariants.check(copy, calm)
