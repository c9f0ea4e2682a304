"""Evidence says what was recorded: as the ledger has it trial by trial, and as MLflow has it, ours or somebody's."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsestudy.analysis.evidence import CURVES, TRIAL_COLUMNS, Evidence, Signal
from sparsestudy.analysis.rows import epoch_rows, trial_rows
from sparsestudy.errors import ConflictError, NotFoundError, TrackingError
from sparsestudy.gathering import from_mlflow, from_studies, joined
from sparsestudy.recorded import Study
from sparsestudy.study import StudySpec
from sparsestudy.tracking import mlflow_runs
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.tracking.run_names import RunNames
from sparsestudy.trial import Failure, Measurement, Statistics, TrialConfig, TrialState
from tests.servers import free_port, mlflow_server

SPEC = StudySpec.from_dict({"name": "s", "regularizers": [{"name": "none"}, {"name": "perplexity"}]})
LAYERS = ("features.conv1", "features.conv2")


def config(number: int, arm: str = "none", spec: StudySpec = SPEC, **searched: Any) -> TrialConfig:
    strength = searched.get("strength")
    method: dict[str, Any] = {"method": arm}
    if strength is not None:
        method |= {"strength": strength, "targets": {LAYERS[1]: searched["target"]}}
    named = {} if strength is None else {
        f"{arm}/strength": strength, f"{arm}/targets/{LAYERS[1]}": searched["target"], "model.arguments.norm": "batch"
    }  # fmt: skip
    return TrialConfig(
        study=spec.name, number=number, arm=arm, parameters={"arm": arm, **named}, methods=(method,), data=spec.data,
        model=spec.model, training=spec.training, measures=spec.measures, seed=number,
    )  # fmt: skip


def statistics(number: int, epoch: int, layers: Sequence[str] = LAYERS) -> Statistics:
    """Numbers that are all different, some undefined; taken at even epochs only."""
    if epoch % 2:
        return {}
    base = number + epoch / 100
    of_layers = {
        layer: {"perplexity": None if (epoch, i) == (2, 0) else base + i / 10, "dead_fraction": base / 7}
        for i, layer in enumerate(layers)
    }
    return {
        "train": {layer: {"perplexity": -1.0} for layer in layers},
        "validation": of_layers,
        "weights": {"features.conv1.0": {"weight_norm": 5 + base}},
        "network": {
            "train": {"path_norm": 1e60 if epoch == 4 else 9 + base, "margin": base},
            "validation": {"margin": -base},
        },
    }


def measurement(number: int, epoch: int, layers: Sequence[str] = LAYERS) -> Measurement:
    return Measurement(
        epoch=epoch, train_loss=1 / (1 + epoch), train_accuracy=0.1 * epoch, validation_loss=number + 1 / 3 ** epoch,
        validation_accuracy=0.05 * epoch, penalty=0.0, learning_rate=0.1, seconds=0.5, timestamp=1000 + epoch,
        statistics=statistics(number, epoch, layers),
    )  # fmt: skip


CONFIGS = {
    0: ("none", {}),
    1: ("perplexity", {"strength": 0.5, "target": 0.25}),
    2: ("perplexity", {"strength": 0.5, "target": 0.25}),
    3: ("perplexity", {"strength": 2.0, "target": 0.75}),
    4: ("none", {}),
    5: ("none", {}),
    6: ("none", {}),
    7: ("none", {}),
}
ENDS = {0: 6, 1: 5, 2: 6, 3: 2, 4: 3, 5: 1, 6: 0, 7: 0}
STATES = {
    0: TrialState.COMPLETE, 1: TrialState.COMPLETE, 2: TrialState.COMPLETE, 3: TrialState.PRUNED,
    4: TrialState.FAIL, 6: TrialState.PRUNED,
}  # fmt: skip
USED = [0, 1, 2, 3]


def record(folder: Path, spec: StudySpec = SPEC) -> Study:
    """Trials 0 to 3 can be used; 4 failed, 5 is running, 6 was stopped before its first epoch, 7 waits."""
    ledger = Ledger.in_folder(folder)
    study = ledger.create_study(spec.name, spec)
    lease = ledger.lease(study)
    ledger.add_trials(lease, [config(n, arm, spec, **searched) for n, (arm, searched) in CONFIGS.items()])
    for number in range(7):
        ledger.start(lease, number)
        ledger.record(lease, number, 1, [measurement(number, epoch) for epoch in range(ENDS[number])])
        if number in STATES:
            failure = Failure(kind="DivergedError", message="the loss is nan") if number == 4 else None
            ledger.finish(lease, number, STATES[number], failure=failure)
    lease.release()
    return Study(folder=folder, ledger=ledger, record=ledger.study(spec.name))


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with record(tmp_path / "study") as opened:
        yield opened


def check_curves(evidence: Evidence, study: Study) -> None:
    """Against the measurements as the ledger gives them one trial at a time."""
    for row, number in enumerate(USED):
        trajectory = study.trajectory(number)
        for name in CURVES:
            expected = [m.scalars()[name] for m in trajectory] + [math.nan] * (6 - len(trajectory))
            np.testing.assert_array_equal(evidence.curves[name][row], expected)


def expected_series(study: Study, number: int, split: str, layer: str, measure: str) -> list[float]:
    values = [math.nan] * 6
    for taken in study.trajectory(number):
        value = taken.statistics.get(split, {}).get(layer, {}).get(measure)
        values[taken.epoch] = math.nan if value is None or value > 1e38 else value
    return values


def test_trials_stand_with_their_arms_states_and_configurations(study: Study) -> None:
    trials = from_studies(study).trials
    assert trials["trial"].tolist() == USED
    assert trials["study"].tolist() == ["s"] * 4
    assert trials["arm"].tolist() == ["none", "perplexity", "perplexity", "perplexity"]
    assert trials["state"].tolist() == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    assert trials["epochs"].tolist() == [6, 5, 6, 2]
    assert trials["configuration"].tolist() == [0, 1, 1, 2]
    assert trials["replicate"].tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(trials["parameter/perplexity/strength"], [math.nan, 0.5, 0.5, 2.0])
    assert trials["parameter/model.arguments.norm"].tolist() == [None, "batch", "batch", "batch"]
    assert not any(name in trials for name in ("parameter/arm", "parameter/training.seed"))
    for row, number in enumerate(USED):
        trial = study.trial(number)
        assert trial.started is not None
        assert trials["seconds"][row] == trial.finished - trial.started
    assert {name: str(trials[name].dtype) for name in TRIAL_COLUMNS} == TRIAL_COLUMNS


def test_curves_and_series_are_those_of_the_trajectories(study: Study) -> None:
    evidence = from_studies(study)
    check_curves(evidence, study)
    assert evidence.layers == list(LAYERS)
    places = {
        Signal(kind="activations", layer=layer, measure=measure): ("validation", layer, measure)
        for layer in LAYERS
        for measure in ("perplexity", "dead_fraction")
    }
    places[Signal(kind="weights", layer="features.conv1.0", measure="weight_norm")] = (
        "weights",
        "features.conv1.0",
        "weight_norm",
    )
    places[Signal(kind="network", layer="", measure="path_norm")] = ("network", "train", "path_norm")
    places[Signal(kind="network", layer="", measure="margin")] = ("network", "train", "margin")
    places[Signal(kind="network", layer="", measure="validation/margin")] = ("network", "validation", "margin")
    assert set(evidence.signals) == set(places)
    for signal, place in places.items():
        for row, number in enumerate(USED):
            expected = np.array(expected_series(study, number, *place), dtype=np.float32)
            np.testing.assert_array_equal(evidence.series(signal)[row], expected, str(signal))


def test_targets_are_by_layer_and_in_the_main_measure(study: Study) -> None:
    evidence = from_studies(study)
    assert list(evidence.targets) == [LAYERS[1]]
    np.testing.assert_array_equal(evidence.targets[LAYERS[1]], [math.nan, 0.25, 0.25, 0.75])
    assert evidence.main == "perplexity"


def test_trials_that_cannot_be_used_are_listed_with_the_reason(study: Study) -> None:
    excluded = from_studies(study).excluded
    assert excluded["trial"].tolist() == [4, 5, 6, 7]
    assert excluded["reason"].tolist() == [
        "failed with DivergedError: the loss is nan",
        "has not finished: RUNNING",
        "ended before its first epoch",
        "has not finished: WAITING",
    ]


def test_several_studies_make_one_body_of_evidence(study: Study, tmp_path: Path) -> None:
    other_spec = StudySpec.from_dict({**SPEC.to_dict(), "name": "other"})
    with record(tmp_path / "other", other_spec) as other:
        both, one = from_studies(study, other), from_studies(study)
    assert both.trials["study"].tolist() == ["s"] * 4 + ["other"] * 4
    # The same configurations again, so that all of the second study are replicates.
    assert both.trials["configuration"].tolist() == [0, 1, 1, 2] * 2
    assert both.trials["replicate"].tolist() == [0, 0, 1, 0, 1, 2, 3, 1]
    np.testing.assert_array_equal(both.values[4:], one.values)
    np.testing.assert_array_equal(both.curves["train/loss"][4:], one.curves["train/loss"])
    assert len(both.excluded) == 8


def test_studies_of_other_layers_and_lengths_stand_side_by_side(study: Study, tmp_path: Path) -> None:
    spec = StudySpec.from_dict({**SPEC.to_dict(), "name": "longer"})
    ledger = Ledger.in_folder(tmp_path / "longer")
    lease = ledger.lease(ledger.create_study("longer", spec))
    ledger.add_trials(lease, [config(0, spec=spec)])
    ledger.start(lease, 0)
    ledger.record(lease, 0, 1, [measurement(0, epoch, ["features.conv2", "head"]) for epoch in range(9)])
    ledger.finish(lease, 0, TrialState.COMPLETE)
    with Study(folder=tmp_path, ledger=ledger, record=ledger.study("longer")) as longer:
        both = from_studies(study, longer)
    assert both.layers == [*LAYERS, "head"]
    assert both.values.shape[:2] == (5, 9)
    perplexity = {
        layer: both.series(Signal(kind="activations", layer=layer, measure="perplexity")) for layer in both.layers
    }
    assert np.isnan(perplexity["features.conv1"][4]).all()
    assert np.isnan(perplexity["head"][:4]).all()
    np.testing.assert_allclose(perplexity["head"][4, ::2], [0.1, 0.12, 0.14, 0.16, 0.18], rtol=1e-6)
    assert np.isnan(both.curves["train/loss"][:4, 6:]).all()


def test_studies_with_targets_in_other_measures_do_not_mix(study: Study, tmp_path: Path) -> None:
    spec = StudySpec.from_dict({**SPEC.to_dict(), "name": "other", "measures": {"names": ["gini"], "main": "gini"}})
    with (
        record(tmp_path / "other", spec) as other,
        pytest.raises(ConflictError, match="different measures their main one: perplexity, gini"),
    ):
        from_studies(study, other)


def test_no_study_and_an_empty_study_are_evidence_of_nothing(tmp_path: Path) -> None:
    ledger = Ledger.in_folder(tmp_path)
    with Study(folder=tmp_path, ledger=ledger, record=ledger.create_study("s", SPEC)) as empty:
        for evidence in (joined([]), from_studies(empty)):
            assert (len(evidence), evidence.values.shape) == (0, (0, 0, 0))
            assert evidence.gap().tolist() == []
            assert len(trial_rows(evidence)) == 0
            assert sum(len(parcel) for parcel in epoch_rows(evidence)) == 0


def rewrite(study: Study, change: Callable[[int, int, dict[str, Any]], None]) -> None:
    """Write measurements as ledgers had them before they were packed, names and all, with changes to some."""
    texts = {}
    for trial in study.trials():
        for taken in study.trajectory(trial.number):
            data = taken.to_dict()
            change(trial.number, taken.epoch, data)
            texts[trial.number, taken.epoch] = json.dumps(data)
    with sqlite3.connect(study.folder / "ledger.db") as connection:
        keys = dict(connection.execute("SELECT number, id FROM trials").fetchall())
        update = "UPDATE measurements SET data = ? WHERE trial_id = ? AND epoch = ?"
        connection.executemany(update, [(text, keys[number], epoch) for (number, epoch), text in texts.items()])
        connection.execute("DELETE FROM shapes")
        connection.execute("UPDATE schema_version SET version = 1")
    connection.close()


def test_ledgers_from_before_statistics_were_packed_are_read_alike(study: Study) -> None:
    before = from_studies(study)
    rewrite(study, lambda *_: None)
    after = from_studies(study)
    assert after.signals == before.signals
    np.testing.assert_array_equal(after.values, before.values)


def test_what_only_python_writes_as_json_is_read(study: Study) -> None:
    def change(number: int, epoch: int, data: dict[str, Any]) -> None:
        if (number, epoch) == (0, 3):
            data["validation_loss"] = math.nan

    rewrite(study, change)
    evidence = from_studies(study)
    assert np.isnan(evidence.curves["validation/loss"][0]).tolist() == [False, False, False, True, False, False]


def test_measures_that_come_and_go_and_change_places_are_told_apart(study: Study) -> None:
    before = from_studies(study)

    def change(number: int, epoch: int, data: dict[str, Any]) -> None:
        layers = data["statistics"].get("validation", {})
        if number != 1 or not layers:
            return
        if epoch == 0:
            layers["extra"] = {"perplexity": 0.5}
        if epoch == 2:
            layers[LAYERS[1]]["gini"] = 0.125
        if epoch == 4:
            data["statistics"]["validation"] = {
                layer: dict(reversed(values.items())) for layer, values in reversed(layers.items())
            }

    rewrite(study, change)
    after = from_studies(study)
    for signal in before.signals:
        np.testing.assert_array_equal(after.series(signal), before.series(signal), str(signal))
    extra = after.series(Signal(kind="activations", layer="extra", measure="perplexity"))
    gini = after.series(Signal(kind="activations", layer=LAYERS[1], measure="gini"))
    assert np.argwhere(np.isfinite(extra)).tolist() == [[1, 0]]
    assert (np.argwhere(np.isfinite(gini)).tolist(), gini[1, 2]) == ([[1, 2]], 0.125)


def test_trials_from_before_a_field_was_added_are_replicates_of_later_ones(study: Study) -> None:
    with sqlite3.connect(study.folder / "ledger.db") as connection:
        connection.execute("UPDATE trials SET config = json_remove(config, '$.threads', '$.task') WHERE number = 1")
    connection.close()
    assert from_studies(study).trials["configuration"].tolist() == [0, 1, 1, 2]


# MLflow


def ship(study: Study) -> str:
    tracker = Tracker(Ledger.in_folder(study.folder), study.record, study.folder, lambda *_: {}, period=0.2)
    tracker.start()
    assert tracker.close()
    return tracker.uri


def check_shipped(evidence: Evidence, study: Study) -> None:
    """MLflow has the main measure under short names of layers, and what a store has of the rest."""
    check_curves(evidence, study)
    trials, ours = evidence.trials, from_studies(study)
    for name in ("trial", "arm", "state", "epochs", "configuration", "replicate", "parameter/perplexity/strength"):
        np.testing.assert_array_equal(trials[name].to_numpy(), ours.trials[name].to_numpy(), name)
    np.testing.assert_allclose(trials["seconds"], ours.trials["seconds"], atol=0.002)
    assert evidence.layers == ["conv1", "conv2"]
    for short, layer in zip(evidence.layers, LAYERS, strict=True):
        main, own = (Signal(kind="activations", layer=name, measure="perplexity") for name in (short, layer))
        np.testing.assert_array_equal(evidence.series(main), ours.series(own))
    np.testing.assert_array_equal(evidence.targets["conv2"], ours.targets[LAYERS[1]])
    for signal in ours.signals:
        if signal.kind == "network":
            np.testing.assert_array_equal(evidence.series(signal), ours.series(signal), str(signal))
    weight = Signal(kind="weights", layer="0", measure="weight_norm")
    assert weight in evidence.signals
    np.testing.assert_array_equal(
        evidence.series(weight), ours.values[:, :, [s.kind for s in ours.signals].index("weights")]
    )
    assert evidence.excluded["trial"].tolist() == [4, 5, 6]
    assert evidence.excluded["reason"][0] == "failed: DivergedError: the loss is nan"


def test_our_own_runs_in_a_file_say_what_the_ledger_says(study: Study) -> None:
    check_shipped(from_mlflow(ship(study), "s"), study)


def test_our_own_runs_on_a_server_say_what_the_ledger_says(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_server(tmp_path, free_port()) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        ship(study)
        requests = count_requests(monkeypatch)
        whole = from_mlflow(uri, "s")
        check_shipped(whole, study)
        # 4 curves, 2 layers, 1 weight, 3 of the network: one call each for all runs.
        assert requests == ["bulk"] * 10
        same_in_small_calls(uri, whole, monkeypatch)
        same_without_the_bulk_address(uri, whole, monkeypatch)
        with pytest.raises(NotFoundError, match=r"no experiment 'S' in this MLflow store; .*did you mean 's'"):
            from_mlflow(uri, "S")


BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests for histories from now on."""
    from mlflow import MlflowClient
    from mlflow.utils import rest_utils

    requests: list[str] = []
    real, real_history = rest_utils.http_request, MlflowClient.get_metric_history

    def request(**given: Any) -> Any:
        if given["endpoint"] == BULK:
            requests.append("bulk")
        return real(**given)

    def history(*given: Any) -> Any:
        requests.append("single")
        return real_history(*given)

    monkeypatch.setattr(rest_utils, "http_request", request)
    monkeypatch.setattr(MlflowClient, "get_metric_history", history)
    return requests


def same_in_small_calls(uri: str, whole: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs a call, and answers so short that they are cut off; the longest run has to be asked for by itself."""
    with monkeypatch.context() as small:
        small.setattr(mlflow_runs, "RUNS_PER_CALL", 3)
        small.setattr(mlflow_runs, "POINTS_PER_CALL", 6)
        requests = count_requests(small)
        again = from_mlflow(uri, "s")
    np.testing.assert_array_equal(again.values, whole.values)
    np.testing.assert_array_equal(again.curves["train/loss"], whole.curves["train/loss"])
    assert requests.count("bulk") > 10
    assert 0 < requests.count("single") < requests.count("bulk")


def same_without_the_bulk_address(uri: str, whole: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.utils import rest_utils

    class Missing:
        status_code = 404

    with monkeypatch.context() as old:
        requests = count_requests(old)
        real = rest_utils.http_request
        old.setattr(
            rest_utils, "http_request", lambda **given: Missing() if given["endpoint"] == BULK else real(**given)
        )
        again = from_mlflow(uri, "s")
    np.testing.assert_array_equal(again.values, whole.values)
    assert set(requests) == {"single"}


def log(client: Any, experiment: str, series: Mapping[str, Mapping[int, float]], **of_run: Any) -> str:
    """One run of somebody's, step by step."""
    from mlflow.entities import Metric

    run = client.create_run(experiment, start_time=of_run.get("start", 0), tags=of_run.get("tags", {}))
    for name, value in of_run.get("params", {}).items():
        client.log_param(run.info.run_id, name, value)
    points = [Metric(name, value, 7, step) for name, own in series.items() for step, value in own.items()]
    client.log_batch(run.info.run_id, points)
    client.set_terminated(run.info.run_id, of_run.get("status", "FINISHED"), end_time=of_run.get("start", 0) + 2500)
    return str(run.info.run_id)


NAMES = RunNames(
    train_loss="loss",
    train_accuracy="acc",
    validation_loss="val_loss",
    validation_accuracy="val_acc",
    activations="zeros.{layer}",
    main="zero_fraction",
    arm="regulariser",
    targets="target.{layer}",
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Somebody's runs: 100 steps an epoch, the training loss at every 50th, a parent, a failure, layers by number."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('foreign') / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("theirs")
    parent = log(client, experiment, {"lr": {0: 0.1}})
    for seed in range(3):
        series = {
            "val_loss": {99: 1.0, 199: 0.5 + seed, 299: 0.75},
            "loss": {49: 2.0, 99: 1.5, 149: 1.25, 199: 0.875, 249: 0.5, 299: 0.25, 349: 99.0},
            "zeros.2": {99: 0.25, 299: 0.5},
            "zeros.10": {199: math.nan, 299: math.inf},
            "other": {0: 1.0},
        }
        params = {"seed": seed, "regulariser": "dropout", "rate": "0.5", "target.2": "0.3" if seed < 2 else "0.6"}
        tags = {"mlflow.parentRunId": parent}
        log(client, experiment, series, params=params, tags=tags, start=1000 * (3 - seed))
    log(client, experiment, {"val_loss": {99: 1.0}}, status="FAILED", start=8000)
    log(client, experiment, {"other": {0: 1.0}}, status="KILLED", start=9000)
    return uri


def test_somebody_s_runs_are_read_by_their_own_names(foreign: str) -> None:
    evidence = from_mlflow(foreign, "theirs", NAMES)
    assert evidence.trials["arm"].tolist() == ["dropout"] * 3
    assert evidence.trials["epochs"].tolist() == [3] * 3
    assert evidence.trials["seconds"].tolist() == [2.5] * 3
    # In the order they were started: seeds 2, 1, 0.
    np.testing.assert_array_equal(evidence.curves["validation/loss"][:, 1], [2.5, 1.5, 0.5])
    # Of what was logged since the epoch before the last counts, and nothing of what came after the last epoch.
    np.testing.assert_array_equal(evidence.curves["train/loss"], [[1.5, 0.875, 0.25]] * 3)
    assert np.isnan(evidence.curves["train/accuracy"]).all()
    assert evidence.layers == ["2", "10"]
    nan = math.nan
    zeros = evidence.series(Signal(kind="activations", layer="2", measure="zero_fraction"))
    np.testing.assert_array_equal(zeros, [[0.25, nan, 0.5]] * 3)
    assert np.isnan(evidence.series(Signal(kind="activations", layer="10", measure="zero_fraction"))).all()
    assert evidence.trials["configuration"].tolist() == [0, 1, 1]
    assert evidence.trials["parameter/rate"].tolist() == [0.5] * 3
    np.testing.assert_array_equal(evidence.targets["2"], [0.6, 0.3, 0.3])
    assert (evidence.main, list(evidence.targets)) == ("zero_fraction", ["2"])
    assert evidence.excluded["reason"].tolist() == ["failed: no reason recorded", "logged no val_loss"]


def test_runs_without_the_metric_say_which_there_are(foreign: str) -> None:
    with pytest.raises(NotFoundError) as told:
        from_mlflow(foreign, "theirs", RunNames())
    lines = str(told.value).splitlines()
    assert lines[0] == "none of the 5 runs of experiment 'theirs' logged 'validation/loss'"
    assert lines[1] == "metrics there: loss, other, val_loss, zeros.10, zeros.2"
    assert "  validation_loss: loss" in lines


def test_experiments_and_stores_that_do_not_exist(foreign: str, tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"no experiment 'their' in this MLflow store; experiments: Default, theirs; did"
    ):
        from_mlflow(foreign, "their")
    with pytest.raises(NotFoundError, match="there is no MLflow store sqlite:"):
        from_mlflow(f"sqlite:///{tmp_path / 'none.db'}", "s")
    assert not (tmp_path / "none.db").exists()
    Ledger.in_folder(tmp_path).close()
    with pytest.raises(TrackingError, match=r"cannot be read as an MLflow store: .*no such table"):
        from_mlflow(f"sqlite:///{tmp_path / 'ledger.db'}", "s")


def test_a_server_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"the MLflow server http://127\.0\.0\.1:.* cannot be read"):
        from_mlflow(f"http://127.0.0.1:{free_port()}", "s")
