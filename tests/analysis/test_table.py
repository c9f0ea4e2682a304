import json
import math

import numpy as np
import pandas as pd
import pytest

from sparsestudy.analysis.table import (
    best_by_arm,
    curves_table,
    layers_of,
    pareto_front,
    ranking,
    searched_domains,
    sparsity_at_best,
    trajectory_table,
    trials_table,
    write_parquet,
)
from sparsestudy.study import StudySpec
from sparsestudy.trial import SCALARS, Failure, Measurement, Trial, TrialConfig, TrialState, headlines

ACCURACY = {"metric": "best/validation/accuracy"}
GAP = {"metric": "best/gap/loss", "direction": "minimize"}


def make_spec(*objectives):
    given = {
        "name": "s",
        "regularizers": [
            {"name": "none"},
            {"name": "l1", "strength": {"log_uniform": [0.001, 1]}, "axis": {"choice": ["layer", 1]}},
            {"name": "hoyer", "strength": "auto", "exact": {"choice": [True, False]}},
        ],
        "search": {
            "objectives": list(objectives) or [ACCURACY],
            "parameters": {
                "training.batch_size": {"int": [16, 64]},
                "model.arguments.norm": {"choice": [None, "batch"]},
            },
        },
    }  # fmt: skip
    return StudySpec.model_validate_json(json.dumps(given))


def make_trial(number, *values, state=TrialState.COMPLETE, arm="none", parameters=None, **more):
    spec = make_spec()
    config = TrialConfig(
        study="s", number=number, arm=arm, parameters={"arm": arm, **(parameters or {})}, methods=(), seed=1,
        data=spec.data, model=spec.model, training=spec.training, measures=spec.measures,
    )  # fmt: skip
    return Trial(number=number, config=config, state=state, values=values, **more)


def measure(epoch, loss, statistics=None):
    return Measurement(
        epoch=epoch, train_loss=0.5, train_accuracy=0.9, validation_loss=loss, validation_accuracy=0.8, penalty=0.01,
        learning_rate=0.1, seconds=2.0, timestamp=7, statistics=statistics or {},
    )  # fmt: skip


TRAJECTORY = [
    measure(
        0,
        1.0,
        {"train": {"a": {"perplexity": 0.25}}, "validation": {"a": {"perplexity": 0.5}, "b": {"dead": None}}},
    ),
    measure(1, 0.75),
    measure(2, 1.5, {"validation": {"b": {"dead": 1.0}}}),
]  # fmt: skip


def numbers(trials):
    return [trial.number for trial in trials]


def test_trials_table_has_a_row_a_trial_with_values_and_types():
    found = {"best/validation/accuracy": 0.8, "best/epoch": 1.0, "best/sparsity/conv": 0.4}
    failure = Failure(kind="DivergedError", message="not finite")
    trials = [
        make_trial(4, 0.8, epochs=3, headlines=found, started=10.0, finished=12.5, attempts=2),
        make_trial(1, 0.5, arm="l1", state=TrialState.PRUNED, parameters={"l1/strength": 0.1, "l1/axis": 1}),
        make_trial(2, arm="hoyer", state=TrialState.FAIL, failure=failure, headlines={"best/validation/accuracy": 0.3},
                   parameters={"hoyer/strength": 2, "hoyer/exact": True, "model.arguments.norm": None}),
    ]  # fmt: skip
    table = trials_table(make_spec(), trials)
    assert table["number"].tolist() == [4, 1, 2]
    assert table["label"].tolist() == ["none", "l1·axis 1", "hoyer·norm None·exact True"]
    assert table["arm"].tolist() == ["none", "l1", "hoyer"]
    assert table["state"].tolist() == ["COMPLETE", "PRUNED", "FAIL"]
    assert table["epochs"].tolist() == [3, 0, 0]
    assert table["best/validation/accuracy"].tolist() == [0.8, 0.5, 0.3]
    assert table.loc[0, "best/sparsity/conv"] == 0.4
    assert table["best/sparsity/conv"].isna().tolist() == [False, True, True]
    assert table.loc[1, "parameter/l1/strength"] == 0.1
    assert table.loc[1, "parameter/l1/axis"] == "1"
    assert table.loc[2, "parameter/hoyer/strength"] == 2
    assert table.loc[2, "parameter/hoyer/exact"] == "true"
    assert table.loc[2, "parameter/model.arguments.norm"] == "null"
    assert table["parameter/model.arguments.norm"].isna().tolist() == [True, True, False]
    assert table.loc[0, "seconds"] == 2.5
    assert math.isnan(table.loc[1, "seconds"])
    assert table["attempts"].tolist() == [2, 0, 0]
    assert table.loc[2, "failure/kind"] == "DivergedError"
    assert table.loc[2, "failure/message"] == "not finite"
    assert pd.isna(table.loc[0, "failure/kind"])
    assert "parameter/arm" not in table
    assert len(set(table.columns)) == len(table.columns)


def test_trials_table_has_the_same_columns_and_types_without_trials():
    spec = make_spec()
    empty, full = trials_table(spec, []), trials_table(spec, [make_trial(0, 0.5), make_trial(1, 0.5)])
    assert (len(empty), len(full)) == (0, 2)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert list(empty.columns) == list(full.columns)
    assert list(empty.columns[:6]) == ["number", "label", "arm", "state", "epochs", "best/validation/accuracy"]
    assert list(empty.columns[-4:]) == ["seconds", "attempts", "failure/kind", "failure/message"]
    kinds = {name: str(kind) for name, kind in empty.dtypes.items()}
    assert kinds["number"] == kinds["epochs"] == kinds["attempts"] == "int64"
    assert (
        kinds["label"] == kinds["failure/kind"] == kinds["parameter/l1/axis"] == kinds["parameter/hoyer/exact"] == "str"
    )
    assert kinds["parameter/l1/strength"] == kinds["final/gap/loss"] == kinds["seconds"] == "float64"


def test_trials_table_names_a_column_per_objective():
    table = trials_table(make_spec(ACCURACY, GAP), [make_trial(0, 0.9, 0.2, headlines={"best/gap/loss": 0.7})])
    assert list(table.columns[5:7]) == ["best/validation/accuracy", "best/gap/loss"]
    assert table.loc[0, "best/gap/loss"] == 0.2


def test_trajectory_table_is_tidy():
    table = trajectory_table(TRAJECTORY)
    assert list(table.columns) == ["epoch", "split", "layer", "measure", "value"]
    assert table.drop(columns="value").to_numpy().tolist() == [
        [0, "train", "a", "perplexity"],
        [0, "validation", "a", "perplexity"],
        [0, "validation", "b", "dead"],
        [2, "validation", "b", "dead"],
    ]
    np.testing.assert_array_equal(table["value"], [0.25, 0.5, math.nan, 1.0])


def test_trajectory_table_of_some_layers():
    table = trajectory_table(TRAJECTORY, ["b", "unknown", "a"])
    assert table["layer"].tolist() == ["a", "b", "a", "b"]
    assert trajectory_table(TRAJECTORY, ["b"])["epoch"].tolist() == [0, 2]


def test_trajectory_table_carries_weights_and_network():
    statistics = {
        "validation": {"a": {"perplexity": 0.5}},
        "weights": {"a.0": {"weight_norm": 2.0}},
        "network": {"train": {"path_norm": None}, "validation": {"margin_mean": 1.5}},
    }
    table = trajectory_table([measure(3, 1.0, statistics)])
    assert table.drop(columns="value").to_numpy().tolist() == [
        [3, "validation", "a", "perplexity"],
        [3, "weights", "a.0", "weight_norm"],
        [3, "network", "train", "path_norm"],
        [3, "network", "validation", "margin_mean"],
    ]
    np.testing.assert_array_equal(table["value"], [0.5, 2.0, math.nan, 1.5])
    assert trajectory_table([measure(3, 1.0, statistics)], ["a"])["split"].tolist() == ["validation"]
    assert layers_of([measure(3, 1.0, statistics)]) == ["a"]


def test_curves_table_has_a_row_an_epoch():
    table = curves_table(TRAJECTORY)
    assert list(table.columns) == ["epoch", *SCALARS, "learning_rate", "seconds"]
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["validation/loss"].tolist() == [1.0, 0.75, 1.5]
    assert table["gap/loss"].tolist() == [0.5, 0.25, 1.0]
    assert table["learning_rate"].tolist() == [0.1] * 3
    assert table["seconds"].tolist() == [2.0] * 3


@pytest.mark.parametrize("make", [trajectory_table, curves_table])
def test_empty_tables_have_the_types_of_full_ones(make):
    assert len(make([])) == 0
    assert make([]).dtypes.to_dict() == make(TRAJECTORY).dtypes.to_dict()
    assert {str(kind) for kind in make([]).dtypes} <= {"int64", "float64", "str"}


@pytest.mark.parametrize("rows", [0, 3])
def test_parquet_round_trip(tmp_path, rows):
    for make in (trajectory_table, curves_table):
        write_parquet(make(TRAJECTORY[:rows]), tmp_path / "new" / "t.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "t.parquet"), make(TRAJECTORY[:rows]))
    trials = [make_trial(n, 0.5, arm="l1", parameters={"l1/axis": "layer"}) for n in range(rows)]
    table = trials_table(make_spec(), trials)
    write_parquet(table, tmp_path / "trials.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), table)


def test_ranking_follows_the_direction_and_breaks_ties_by_number():
    trials = [make_trial(3, 0.5), make_trial(2, 0.9), make_trial(1, 0.5), make_trial(0, 0.1)]
    assert numbers(ranking(make_spec(), trials)) == [2, 1, 3, 0]
    assert numbers(ranking(make_spec(GAP), trials)) == [0, 1, 3, 2]


def test_ranking_has_complete_trials_only_and_puts_undefined_values_last():
    trials = [
        make_trial(0, math.nan),
        make_trial(1, 0.2),
        make_trial(2, 0.99, state=TrialState.PRUNED),
        make_trial(3, state=TrialState.FAIL),
        make_trial(4),
        make_trial(5, state=TrialState.RUNNING),
    ]
    assert numbers(ranking(make_spec(), trials)) == [1, 0, 4]
    assert ranking(make_spec(), []) == []
    assert ranking(make_spec(ACCURACY, GAP), []) == []


def test_ranking_of_several_objectives_goes_front_by_front():
    # Accuracy up, gap down. Front 0: trials 0, 1, 5; trial 2 loses to 1 only; trial 3 to 0 and 5; trial 4 to 2 as well.
    values = [(0.9, 0.5), (0.6, 0.1), (0.55, 0.2), (0.85, 0.6), (0.5, 0.3), (0.9, 0.5)]
    trials = [make_trial(n, *v) for n, v in enumerate(values)]
    spec = make_spec(ACCURACY, GAP)
    assert numbers(ranking(spec, trials)) == [0, 5, 1, 3, 2, 4]
    assert numbers(pareto_front(spec, trials)) == [0, 5, 1]
    assert numbers(ranking(make_spec(ACCURACY), trials)) == [0, 5, 3, 1, 2, 4]


def test_best_by_arm_starts_with_the_best_arm():
    trials = [make_trial(0, 0.3), make_trial(1, 0.7, arm="l1"), make_trial(2, 0.4), make_trial(3, 0.7, arm="l1")]
    found = best_by_arm(make_spec(), trials)
    assert list(found) == ["l1", "none"]
    assert numbers(found.values()) == [1, 2]


def test_searched_domains_leave_auto_out():
    assert list(searched_domains(make_spec())) == [
        "training.batch_size", "model.arguments.norm", "l1/strength", "l1/axis", "hoyer/exact",
    ]  # fmt: skip


def test_layers_and_sparsity_at_the_best_epoch():
    assert layers_of(TRAJECTORY) == ["a", "b"]
    assert layers_of([]) == []
    # The lowest loss is at epoch 1, which has no statistics; epoch 0 is the measured one before.
    trial = make_trial(0, 0.5, headlines=headlines(TRAJECTORY, "perplexity"))
    assert sparsity_at_best(trial) == {"a": 0.5}
