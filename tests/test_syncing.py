"""``sparsestudy sync``: MLflow made anew from the ledger, against real stores."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sparsestudy import syncing
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError, TrackingError
from sparsestudy.recorded import open_study
from sparsestudy.tracking.mlflow_client import ours
from tests.servers import free_port, mlflow_server
from tests.tracking.test_mlflow_tracker import Recorded, contents

FILES = ["sparsity.png", "trajectory.parquet"]


@pytest.fixture
def recorded(home: Path) -> Iterator[Recorded]:
    """COMPLETE with 5 epochs, FAIL with 4, and one that waits with 3, driven by nobody."""
    study = Recorded(home / "s")
    study.ledger.requeue_running(study.lease, "stopped")
    study.lease.release()
    yield study
    study.ledger.close()


def check(store: dict[str, Any]) -> None:
    """Everything that the ledger says, once."""
    assert sorted(store) == ["0", "1", "2", "study"]
    assert [store[key][0] for key in ("0", "1", "2", "study")] == ["FINISHED", "FAILED", "SCHEDULED", "SCHEDULED"]
    for key, epochs in (("0", 5), ("1", 4), ("2", 3)):
        assert store[key][2]["train/loss"] == [(e, 1 / (e + 1), 1000 + e) for e in range(epochs)]
        assert store[key][4]["mlflow.parentRunId"]
    assert store["0"][1] == {"arm": "none", "seed": "7"}
    assert (store["0"][3], store["2"][3]) == (FILES, [])
    assert store["1"][4]["sparsestudy.failure"] == "RuntimeError: boom"
    assert store["study"][3] == ["study.yaml"]
    assert [value for _, value, _ in store["study"][2]["trials/complete"]] == [1.0]


def own(recorded: Recorded) -> str:
    return f"sqlite:///{recorded.folder.resolve() / 'mlflow.db'}"


def run_ids(recorded: Recorded) -> list[str | None]:
    return [trial.run_id for trial in recorded.ledger.trials(recorded.record.id)]


def test_a_store_is_made_from_nothing_and_the_second_time_changes_nothing(recorded: Recorded) -> None:
    first = syncing.sync("s")
    assert (first.uri, first.trials, first.made, first.mended) == (own(recorded), 3, 3, 0)
    store = contents(own(recorded))
    check(store)
    assert recorded.ledger.undelivered(recorded.record.id) == []
    second = syncing.sync("s")
    assert (second.made, second.mended) == (0, 0)
    assert contents(own(recorded)) == store


def test_what_a_store_lacks_is_filled_in(recorded: Recorded) -> None:
    syncing.sync("s")
    before = contents(own(recorded))
    client = MlflowClient(own(recorded))
    ids = [str(run_id) for run_id in run_ids(recorded)]
    with sqlite3.connect(recorded.folder / "mlflow.db") as database:
        database.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = 2 AND key = 'train/loss'", (ids[0],))
    database.close()
    shutil.rmtree(recorded.folder / "artifacts" / ids[0])
    client.delete_run(ids[1])
    client.set_tag(ids[2], "sparsestudy.arm", "changed")
    found = syncing.sync("s")
    assert (found.made, found.mended) == (1, 2)
    after = contents(own(recorded))
    assert after == before
    assert run_ids(recorded)[0] == ids[0]
    assert run_ids(recorded)[1] != ids[1]


def test_a_study_that_delivers_to_another_store_delivers_everything_there(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the database of its own store was deleted: what counts is that the runs are not there."""
    syncing.sync("s")
    ids = run_ids(recorded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    tracker = recorded.track()
    assert tracker.close()
    store = contents(tracker.uri)
    assert sorted(store) == ["0", "1", "2", "study"]
    assert len(store["0"][2]["train/loss"]) == 5
    assert not set(run_ids(recorded)) & set(ids)


def test_another_store_gets_everything_and_the_ledger_keeps_the_runs_of_its_own(
    recorded: Recorded, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    syncing.sync("s")
    ids = run_ids(recorded)
    other = tmp_path / "other"
    with mlflow_server(tmp_path, port := free_port()):
        uri = f"http://127.0.0.1:{port}"
        assert syncing.sync("s", to=uri).made == 3
        check(contents(uri))
        again = syncing.sync("s", to=uri)
        assert (again.made, again.mended) == (0, 0)
    assert capfd.readouterr() == ("", "")
    assert syncing.sync("s", to=f"sqlite:///{other / 'mlflow.db'}").made == 3
    check(contents(f"sqlite:///{other / 'mlflow.db'}"))
    assert (other / "artifacts").is_dir()
    assert run_ids(recorded) == ids


def test_a_run_made_twice_is_left_once(recorded: Recorded) -> None:
    """As a server does that takes a request and dies before it has answered."""
    syncing.sync("s")
    before = contents(own(recorded))
    client = MlflowClient(own(recorded))
    run = client.get_run(str(run_ids(recorded)[0]))
    client.create_run(run.info.experiment_id, start_time=run.info.start_time, tags=run.data.tags)
    syncing.sync("s")
    syncing.sync("s")
    assert contents(own(recorded)) == before


def test_a_study_that_runs_is_refused(recorded: Recorded) -> None:
    with open_study("s") as study:
        study.ledger.lease(study.record)
    with pytest.raises(ConflictError, match="is already being run by process"):
        syncing.sync("s")
    assert not (recorded.folder / "mlflow.db").exists()


def test_a_store_that_does_not_answer_is_said_so(recorded: Recorded, capfd: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=rf"^MLflow at {uri} does not answer: Connection refused$"):
        syncing.sync("s", to=uri)
    (recorded.folder / "mlflow.db").write_bytes(b"no database" * 100)
    assert main(["sync", "s"]) == 1
    assert main(["sync", "s", "--to", "sqlite:////proc/none/mlflow.db"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("mlflow.db: file is not a database")
    assert lines[1].endswith("No such file or directory")


def test_settings_of_mlflow_stay_those_of_the_person(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.utils import rest_utils

    syncing.sync("s")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    settings: Any = rest_utils.MLFLOW_HTTP_REQUEST_MAX_RETRIES
    with ours():
        assert settings.get() == 0
    assert settings.get() == 5
