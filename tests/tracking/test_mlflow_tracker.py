"""The tracker against real MLflow stores: a SQLite file, and a server that comes and goes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sparsestudy.study import StudySpec
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.mlflow_names import epoch_metrics, headline_metrics
from sparsestudy.tracking.mlflow_store import Store
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import Failure, Measurement, Trial, TrialState, headlines
from tests.servers import free_port, mlflow_server
from tests.tracking.test_ledger import config, measurement

SPEC = StudySpec.from_dict({"name": "s", "question": "Why?", "regularizers": [{"name": "none"}]})


def artifacts(trial: Trial, trajectory: list[Measurement]) -> dict[str, bytes]:
    return {"note.txt": f"{trial.number}: {len(trajectory)} epochs".encode()}


class Recorded:
    """A study of three trials in a ledger, of which one is COMPLETE, one FAIL and one still RUNNING."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger.in_folder(folder)
        self.record = self.ledger.create_study("s", SPEC)
        self.lease: Lease = self.ledger.lease(self.record)
        self.ledger.add_trials(self.lease, [config(i) for i in range(3)])
        for number in range(3):
            self.ledger.start(self.lease, number)
            self.ledger.record(self.lease, number, 1, [measurement(e, 1 / (e + 1)) for e in range(5 - number)])
        found = headlines(self.ledger.trajectory(self.record.id, 0), "perplexity")
        self.ledger.finish(self.lease, 0, TrialState.COMPLETE, values=[0.25], headlines=found)
        failure = Failure(kind="RuntimeError", message="boom", traceback="Traceback: boom")
        self.ledger.finish(self.lease, 1, TrialState.FAIL, failure=failure)

    def track(self) -> Tracker:
        tracker = Tracker(Ledger.in_folder(self.folder), self.record, self.folder, artifacts, period=0.2)
        tracker.start()
        return tracker

    def forget_deliveries(self) -> None:
        """As if the driver had died after shipping and before noting it."""
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            connection.execute("UPDATE measurements SET delivered = 0")
            connection.execute("UPDATE trials SET delivered = 0, run_id = NULL")
            connection.execute("UPDATE studies SET run_id = NULL")
        connection.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    study = Recorded(tmp_path / "study")
    yield study
    study.ledger.close()


def contents(uri: str) -> dict[str, Any]:
    """Everything that matters of a store: per run, keyed by its name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        key = run.data.tags["sparsestudy.key"].rpartition("/")[2]
        assert key not in found, f"two runs for {key}"
        histories = {
            name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = sorted(f.path for f in client.list_artifacts(run.info.run_id))
        found[key] = (run.info.status, run.data.params, histories, files, run.data.tags)
    return found


def check(store: dict[str, Any]) -> None:
    assert sorted(store) == ["0", "1", "2", "study"]
    status, params, histories, files, tags = store["0"]
    assert (status, params["arm"], params["seed"], files) == ("FINISHED", "none", "7", ["note.txt"])
    assert histories["train/loss"] == [(e, 1 / (e + 1), 1000 + e) for e in range(5)]
    assert histories["sparsity/perplexity/conv1"] == [(e, 0.25, 1000 + e) for e in range(5)]
    assert histories["best/sparsity/conv1"][0][1] == 0.25
    assert tags["sparsestudy.state"] == "COMPLETE"
    status, _, histories, _, tags = store["1"]
    assert (status, tags["sparsestudy.failure"]) == ("FAILED", "RuntimeError: boom")
    assert len(histories["train/loss"]) == 4
    status, _, histories, _, _ = store["2"]
    assert status == "RUNNING"
    assert len(histories["train/loss"]) == 3
    assert store["study"][4]["mlflow.note.content"] == "Why?"
    assert store["study"][3] == ["environment.txt", "study.yaml"]


def test_a_study_in_a_file(recorded: Recorded) -> None:
    tracker = recorded.track()
    assert tracker.close()
    store = contents(tracker.uri)
    check(store)
    assert tracker.failures == 0
    assert {run[4].get("mlflow.parentRunId") for key, run in store.items() if key != "study"} == {
        recorded.ledger.study("s").run_id
    }


def test_shipping_everything_again_changes_nothing(recorded: Recorded) -> None:
    tracker = recorded.track()
    assert tracker.close()
    before = contents(tracker.uri)
    recorded.forget_deliveries()
    again = recorded.track()
    assert again.close()
    assert contents(again.uri) == before


def test_a_run_without_its_files_gets_them(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow died, or the driver, after the study's run was made and before its files were attached."""
    attach, calls = Store.attach, []

    def first_one_fails(self: Store, run_id: str, files: Mapping[str, bytes]) -> None:
        calls.append(run_id)
        if len(calls) == 1:
            raise ConnectionError("it has just gone")
        attach(self, run_id, files)

    monkeypatch.setattr(Store, "attach", first_one_fails)
    tracker = recorded.track()
    while len(calls) < 2:
        time.sleep(0.05)
    assert tracker.close()
    assert tracker.failures == 1
    check(contents(tracker.uri))


def test_a_server_that_comes_late_gets_everything(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    tracker = recorded.track()
    deadline = time.monotonic() + 60
    while not tracker.failures and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tracker.failures > 0
    # Nobody waits for it: the ledger takes a further epoch at once.
    started = time.monotonic()
    recorded.ledger.record(recorded.lease, 2, 1, [])
    assert time.monotonic() - started < 5
    with mlflow_server(tmp_path, port) as uri:
        assert tracker.close(90)
        check(contents(uri))


def test_a_server_that_never_comes_is_reported_not_waited_for(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    tracker = recorded.track()
    assert tracker.close(3) is False
    assert len(recorded.ledger.undelivered(recorded.record.id)) == 3


def test_metrics_of_an_epoch_leave_out_what_is_undefined() -> None:
    taken = measurement(3)
    metrics = epoch_metrics(taken, "perplexity")
    assert metrics["sparsity/perplexity/conv1"] == 0.25
    assert metrics["gap/loss"] == 0.5
    assert metrics["learning_rate"] == 0.1
    assert not any(key.startswith("sparsity/") for key in epoch_metrics(taken, "perplexity_image"))


def test_metrics_of_weights_and_network(recorded: Recorded) -> None:
    statistics = {
        "validation": {"features.conv1": {"perplexity": 0.5}},
        "weights": {"features.conv1.0": {"weight_norm": 2.0}, "features.conv2.0": {"weight_norm": None}},
        "network": {"train": {"path_norm": 3.0, "margin_q10": -1.0}, "validation": {"margin_q10": None}},
    }
    taken = Measurement.from_dict({**measurement(4).to_dict(), "statistics": statistics})
    scalars = {*taken.scalars(), "learning_rate"}
    assert {key: value for key, value in epoch_metrics(taken, "perplexity").items() if key not in scalars} == {
        "sparsity/perplexity/conv1": 0.5,
        "weights/weight_norm/conv1.0": 2.0,
        "network/train/path_norm": 3.0,
        "network/train/margin_q10": -1.0,
    }
    recorded.ledger.record(recorded.lease, 2, 1, [taken])
    tracker = recorded.track()
    assert tracker.close()
    series = contents(tracker.uri)["2"][2]
    assert series["weights/weight_norm/conv1.0"] == [(4, 2.0, 1004)]
    assert series["network/train/path_norm"] == [(4, 3.0, 1004)]


def test_layers_of_shared_modules_have_names_that_mlflow_takes(recorded: Recorded) -> None:
    """A residual network uses one non-linearity twice and its layer is called ``relu#2``, which MLflow refuses."""
    layers = {"layer1.0.relu": {"perplexity": 0.25}, "layer1.0.relu#2": {"perplexity": 0.5}}
    taken = {**measurement(3).to_dict(), "statistics": {"validation": layers}}
    recorded.ledger.record(recorded.lease, 2, 1, [Measurement.from_dict(taken)])
    tracker = recorded.track()
    assert tracker.close()
    series = contents(tracker.uri)["2"][2]
    assert series["sparsity/perplexity/relu"] == [(3, 0.25, 1003)]
    assert series["sparsity/perplexity/relu:2"] == [(3, 0.5, 1003)]


def test_headlines_use_the_short_names_of_layers() -> None:
    trial = Trial(
        number=0,
        config=config(0),
        state=TrialState.COMPLETE,
        headlines={"best/sparsity/features.conv1": 0.5, "best/sparsity/mean": 0.4, "final/train/loss": 1.0},
    )
    assert headline_metrics(trial) == {"best/sparsity/conv1": 0.5, "best/sparsity/mean": 0.4, "final/train/loss": 1.0}
