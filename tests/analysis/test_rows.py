"""The two tables: what their columns say, worked out by hand, and their fixed types."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsestudy.analysis.evidence import CURVES, Evidence, Signal
from sparsestudy.analysis.onset import overfitting_onset, sparsity_onset
from sparsestudy.analysis.rows import epoch_rows, late_slope, mean_level, trial_rows, write_rows
from sparsestudy.analysis.table import write_parquet
from sparsestudy.trial import Measurement, headlines

NAN = math.nan
EPOCHS = 40
AT = np.arange(EPOCHS)


def activations(layer: str, measure: str = "perplexity") -> Signal:
    return Signal(kind="activations", layer=layer, measure=measure)


SIGNALS = (
    activations("conv1"),
    activations("conv1", "dead_fraction"),
    activations("conv2"),
    Signal(kind="weights", layer="conv1.0", measure="weight_norm"),
    Signal(kind="network", layer="", measure="path_norm"),
)


def trials(**columns) -> pd.DataFrame:
    count = len(columns["epochs"])
    given = {
        "study": ["s"] * count,
        "trial": list(range(count)),
        "arm": ["a"] * count,
        "configuration": list(range(count)),
        "replicate": [0] * count,
        "state": ["COMPLETE"] * count,
        "seconds": [1.0] * count,
        **columns,
    }
    return pd.DataFrame(given)


@pytest.fixture
def evidence() -> Evidence:
    """Three trials: one overfits ten epochs after its layer grows sparser, one is stopped early, one is a control."""
    validation = np.stack([1 + 0.02 * np.abs(AT - 25), 2 - 0.02 * AT, 2 - 0.02 * AT])
    train = np.stack([1 - 0.01 * AT] * 3)
    sparsity = np.stack([0.6 - 0.004 * AT + 0.02 * np.maximum(AT - 15, 0), 0.5 + 0.001 * AT, 0.6 - 0.004 * AT])
    values = np.full((3, EPOCHS, len(SIGNALS)), NAN)
    values[:, :, 0] = sparsity
    values[:, :, 1] = 0.0
    values[2, 20:, 2] = 0.25
    values[:, :, 3] = 7.0
    values[:, ::5, 4] = 9.0
    curves = {"train/loss": train, "validation/loss": validation, "train/accuracy": 1 - train / 2,
              "validation/accuracy": 1 - validation / 4}  # fmt: skip
    for array in (*curves.values(), values):
        array[1, 22:] = NAN
    return Evidence(
        trials=trials(
            epochs=[EPOCHS, 22, EPOCHS],
            state=["COMPLETE", "PRUNED", "COMPLETE"],
            arm=["a", "b", "none"],
            **{"parameter/a/strength": [0.5, NAN, NAN], "parameter/b/one/strength": [NAN, 2.0, NAN],
               "parameter/b/two/strength": [NAN, 3.0, NAN], "parameter/norm": [None, "batch", None]},
        ),
        curves=curves,
        signals=SIGNALS,
        values=values,
        targets={"conv1": np.array([0.5, NAN, NAN])},
    )  # fmt: skip


def test_a_row_says_how_a_trial_ended_and_when_things_began(evidence: Evidence) -> None:
    row = trial_rows(evidence).iloc[0]
    assert row["final/gap/loss"] == pytest.approx(1 + 0.02 * 14 - (1 - 0.39))
    assert row["final/gap/accuracy"] == pytest.approx((1 - 0.61 / 2) - (1 - 1.28 / 4))
    assert (row["best/epoch"], row["best/validation/loss"]) == (25, 1.0)
    assert row["final/excess/loss"] == pytest.approx(0.28)
    assert (row["onset/overfitting"], row["onset/overfitting/censored"]) == (25, False)
    assert (row["onset/sparsity/conv1"], row["onset/sparsity/conv1/censored"]) == (15, False)
    assert row["lead/conv1"] == 10
    assert row["slope/conv1"] == pytest.approx(0.016)
    end = 0.6 - 0.004 * 39 + 0.02 * 24
    assert row["final/sparsity/conv1"] == pytest.approx(end)
    assert row["best/sparsity/conv1"] == pytest.approx(0.6 - 0.004 * 25 + 0.02 * 10)
    assert (row["target/conv1"], row["deviation/conv1"]) == (0.5, pytest.approx(end - 0.5))
    # Two straight pieces: 0.6 to 0.54 over 15 epochs, 0.54 to the end over 24.
    assert row["area/conv1"] == pytest.approx(((0.6 + 0.54) / 2 * 15 + (0.54 + end) / 2 * 24) / 39)


def test_a_stopped_trial_is_censored_where_it_stopped(evidence: Evidence) -> None:
    row = trial_rows(evidence).iloc[1]
    assert (row["state"], row["epochs"]) == ("PRUNED", 22)
    assert (row["onset/overfitting"], row["onset/overfitting/censored"]) == (21, True)
    assert math.isnan(row["lead/conv1"])
    assert row["final/gap/loss"] == pytest.approx(2 - 0.42 - (1 - 0.21))
    assert row["slope/conv1"] == pytest.approx(0.001)


def test_a_layer_that_was_never_measured_has_no_numbers(evidence: Evidence) -> None:
    row = trial_rows(evidence).iloc[0]
    assert (row["onset/sparsity/conv2"], row["onset/sparsity/conv2/censored"]) == (-1, True)
    undefined = ("lead", "area", "slope", "final/sparsity", "best/sparsity", "target", "deviation")
    assert all(math.isnan(row[f"{name}/conv2"]) for name in undefined)


def test_strength_is_the_one_of_the_trial_s_arm_if_it_has_one(evidence: Evidence) -> None:
    np.testing.assert_array_equal(trial_rows(evidence)["strength"], [0.5, NAN, NAN])


def test_best_and_final_are_the_headlines_of_the_trial() -> None:
    """The same numbers as `headlines` makes of the same measurements, taken now and then, one of them undefined."""
    losses = [1.0, 0.8, 0.6, 0.7, 0.6, 0.9]
    values = {0: 0.5, 2: None, 4: 0.3, 5: 0.4}
    taken = {epoch: {"validation": {"a": {"perplexity": v, "dead_fraction": 0.5}}} for epoch, v in values.items()}
    trajectory = [
        Measurement(
            epoch=epoch, train_loss=0.5, train_accuracy=0.9, validation_loss=loss, validation_accuracy=0.8, penalty=0.0,
            learning_rate=0.1, seconds=1.0, timestamp=0, statistics=taken.get(epoch, {}),
        )
        for epoch, loss in enumerate(losses)
    ]  # fmt: skip
    for last in (2, 4, 6):
        part = trajectory[:last]
        array = np.full((1, last, 2), NAN)
        for epoch, value in values.items():
            if epoch < last:
                array[0, epoch] = NAN if value is None else value, 0.5
        evidence = Evidence(
            trials=trials(epochs=[last]),
            curves={name: np.array([[m.scalars()[name] for m in part]]) for name in CURVES},
            signals=(activations("a"), activations("a", "dead_fraction")),
            values=array,
        )
        row, found = trial_rows(evidence).iloc[0], headlines(part, "perplexity")
        for name in ("final/gap/loss", "final/gap/accuracy", "best/epoch", "best/validation/loss"):
            assert row[name] == found[name], name
        for name in ("best/sparsity/a", "final/sparsity/a"):
            np.testing.assert_equal(row[name], found.get(name, NAN) if name[0] == "b" or last == 6 else NAN, name)


def test_columns_and_types_do_not_depend_on_the_trials(evidence: Evidence) -> None:
    none = Evidence(
        trials=evidence.trials.iloc[:0],
        curves={name: curve[:0] for name, curve in evidence.curves.items()},
        signals=evidence.signals,
        values=evidence.values[:0],
        targets={layer: target[:0] for layer, target in evidence.targets.items()},
    )
    full, empty = trial_rows(evidence), trial_rows(none)
    assert (len(full), len(empty)) == (3, 0)
    assert full.dtypes.to_dict() == empty.dtypes.to_dict()
    assert {str(kind) for kind in full.dtypes} == {"str", "int64", "float64", "bool"}
    (parcel,) = epoch_rows(none)
    assert len(parcel) == 0


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_hardly_any_epochs(epochs: int) -> None:
    count = 2
    evidence = Evidence(
        trials=trials(epochs=[epochs] * count),
        curves={name: np.full((count, epochs), NAN) for name in CURVES},
        signals=(activations("a"),),
        values=np.full((count, epochs, 1), NAN),
    )
    if epochs:
        table = trial_rows(evidence)
        assert table["best/epoch"].isna().all()
        assert (table["onset/overfitting"] == -1).all()
    assert sum(len(parcel) for parcel in epoch_rows(evidence)) == count * epochs


def test_nothing_measured_inside_the_networks() -> None:
    evidence = Evidence(
        trials=trials(epochs=[EPOCHS]),
        curves={name: np.ones((1, EPOCHS)) for name in CURVES},
        signals=(),
        values=np.empty((1, EPOCHS, 0)),
    )
    assert trial_rows(evidence)["final/gap/loss"].tolist() == [0.0]
    assert sum(len(parcel) for parcel in epoch_rows(evidence)) == 0


def test_an_epoch_s_row_has_the_measures_of_a_layer_beside_the_losses(evidence: Evidence) -> None:
    table = pd.concat(epoch_rows(evidence))
    assert len(table) == 4 * (EPOCHS + 22 + EPOCHS)
    assert list(table["layer"].cat.categories) == ["conv1", "conv2", "conv1.0", ""]
    row = table[(table["trial"] == 0) & (table["layer"] == "conv1") & (table["epoch"] == 20)].iloc[0]
    assert (row["kind"], row["study"], row["arm"]) == ("activations", "s", "a")
    assert row["perplexity"] == pytest.approx(0.6 - 0.08 + 0.1)
    assert (row["dead_fraction"], row["validation/loss"], row["train/loss"]) == (0.0, 1.1, pytest.approx(0.8))
    assert math.isnan(row["weight_norm"])
    weight = table[(table["kind"] == "weights") & (table["trial"] == 1)]
    assert (weight["weight_norm"] == 7.0).all()
    assert weight["epoch"].tolist() == list(range(22))
    network = table[table["kind"] == "network"]
    assert network[network["path_norm"].notna()]["epoch"].isin(range(0, EPOCHS, 5)).all()


def test_parcels_make_one_table(evidence: Evidence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(list(epoch_rows(evidence))) == 1
    whole = next(iter(epoch_rows(evidence)))
    monkeypatch.setattr("sparsestudy.analysis.rows._PARCEL", 1)
    parcels = list(epoch_rows(evidence))
    assert [parcel["trial"].unique().tolist() for parcel in parcels] == [[0], [1], [2]]
    write_parquet(iter(parcels), tmp_path / "new" / "parcels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "parcels.parquet"), whole)


def test_both_tables_come_back_from_parquet_as_they_went(evidence: Evidence, tmp_path: Path) -> None:
    first, second = write_rows(evidence, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(first), trial_rows(evidence))
    pd.testing.assert_frame_equal(pd.read_parquet(second), next(iter(epoch_rows(evidence))))


def test_onsets_are_those_of_the_onset_module(evidence: Evidence) -> None:
    table = trial_rows(evidence, alpha=0.01)
    loss = overfitting_onset(evidence.curves["validation/loss"], 0.01)
    layer = sparsity_onset(evidence.series(activations("conv1")), 0.01)
    assert table["onset/overfitting"].tolist() == loss.epoch.tolist()
    assert table["onset/sparsity/conv1/censored"].tolist() == layer.censored.tolist()


def test_mean_level_is_numpy_s_trapezoid_over_the_measured_epochs() -> None:
    random = np.random.default_rng(0)
    series = np.where(random.random((20, 30)) < 0.4, NAN, random.random((20, 30)))
    series[0], series[1, 1:], series[2, :] = NAN, NAN, 0.5
    series[1, 0] = 0.25
    for value, own in zip(mean_level(series), series, strict=True):
        at = np.flatnonzero(np.isfinite(own))
        if len(at) < 2:
            np.testing.assert_equal(value, own[at[0]] if len(at) else NAN)
        else:
            assert value == pytest.approx(np.trapezoid(own[at], at) / (at[-1] - at[0]))


def test_late_slope_is_numpy_s_line_through_the_last_quarter() -> None:
    random = np.random.default_rng(0)
    series, epochs = random.random((5, 40)), np.array([40, 40, 20, 12, 8])
    series[1, 35] = NAN
    for row, last in enumerate(epochs):
        series[row, last:] = NAN
    slopes = late_slope(series, epochs)
    for row, last in enumerate(epochs[:4]):
        at = np.arange(3 * last // 4, last)
        at = at[np.isfinite(series[row, at])]
        assert slopes[row] == pytest.approx(np.polyfit(at, series[row, at], 1)[0])
    assert math.isnan(slopes[4])  # two values make no line worth the name
