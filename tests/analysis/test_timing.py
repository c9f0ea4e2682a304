import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from sparsestudy.analysis.evidence import CURVES, Evidence, Signal
from sparsestudy.analysis.onset import Onsets
from sparsestudy.analysis.timing import POOLED, layer_series, timing
from tests.analysis.timing_worlds import EPOCHS, normal_onsets, seen, sparsity, study


def make(values, loss, configuration, arm="none", state="COMPLETE", measure="perplexity"):
    count, layers = len(loss), values.shape[2]
    trials = pd.DataFrame(
        {
            "study": "s", "trial": np.arange(count), "arm": arm, "configuration": configuration, "replicate": 0,
            "epochs": loss.shape[1], "state": state, "seconds": 1.0,
        }
    )  # fmt: skip
    signals = tuple(Signal(kind="activations", layer=f"conv{i}", measure=measure) for i in range(layers))
    return Evidence(trials=trials, curves=dict.fromkeys(CURVES, loss), signals=signals, values=values)


def planted(seed=0, lead=6):
    """Sparsity of two of three layers rises `lead` epochs before the loss does, that of the third whenever it will."""
    random = np.random.default_rng(seed)
    configuration, arm = study(20, 2)
    rises = normal_onsets(random, configuration, 25, 6, 3)
    other = normal_onsets(random, configuration, 40)
    late = rises + lead
    values = np.stack([sparsity(random, rises), sparsity(random, rises), sparsity(random, other)], axis=2)
    loss = 1 + 0.01 * np.abs(np.arange(EPOCHS) - late[:, None]) + random.normal(0, 0.003, (40, EPOCHS))
    onsets = {"conv0": seen(rises), "conv1": seen(rises), "conv2": seen(other), POOLED: seen(rises)}
    return make(values, loss, configuration, arm.astype(str)), seen(late), onsets


@pytest.fixture(scope="module")
def found():
    return timing(*planted())


def test_leads_are_those_planted(found):
    assert list(found.leads) == ["conv0", "conv1", "conv2", POOLED]
    assert found.leads["conv0"].median == pytest.approx(6, abs=0.1)
    assert found.leads["conv0"].p_value <= 2 / 500
    assert found.leads["conv2"].median < 0


def test_overfitting_begins_more_often_after_rises_that_lead(found):
    assert found.after_rise["conv0"].low > 1
    assert found.by_level["conv0"].low > 1
    assert found.after_rise["conv2"].low < 1 < found.after_rise["conv2"].high


def test_the_alarm_of_a_leading_layer_beats_that_of_another(found):
    rows = {detector.name: detector for detector in found.detectors}
    leading, other = rows["sparsity rises, conv0"], rows["sparsity rises, conv2"]
    assert leading.excess.high < other.excess.low
    assert leading.misses.estimate == 0


def test_p_values_are_corrected_over_layers_and_the_mean_stands_apart(found):
    for results in (found.leads, found.after_rise, found.by_level):
        layers = [name for name in results if name != POOLED]
        expected = multipletests([results[name].p_value for name in layers], method="fdr_bh")[1]
        assert [results[name].p_adjusted for name in layers] == pytest.approx(expected)
        assert results[POOLED].p_adjusted is None


def test_the_mean_of_all_layers_leaves_out_what_was_not_measured():
    values = np.zeros((1, 3, 2))
    values[0] = [[0.2, 0.4], [np.nan, 0.6], [np.nan, np.nan]]
    series = layer_series(make(values, np.ones((1, 3)), [0]))
    np.testing.assert_allclose(series[POOLED], [[0.3, 0.6, np.nan]])
    assert POOLED not in layer_series(make(values[:, :, :1], np.ones((1, 3)), [0]))


def test_without_the_measure_there_is_one_reason():
    nothing = timing(make(np.zeros((4, 9, 1)), np.ones((4, 9)), [0, 1, 2, 3], measure="gini"), seen(np.zeros(4)), {})
    assert nothing.reason == "perplexity was not recorded"


@pytest.mark.parametrize("trials", [0, 1, 2, 12])
@pytest.mark.parametrize("configurations", [1, 99])
@pytest.mark.parametrize("fill", [np.nan, 0.5, "noise"])
@pytest.mark.parametrize("epochs", [1, 3, 30])
def test_whatever_comes_there_are_numbers_or_words(trials, configurations, fill, epochs):
    random = np.random.default_rng(0)
    values = random.random((trials, epochs, 2)) if fill == "noise" else np.full((trials, epochs, 2), fill)
    evidence = make(values, values.mean(axis=2), np.arange(trials) % configurations)
    censored = np.arange(trials) % 2 == 0
    onsets = Onsets(epoch=np.full(trials, epochs - 1), censored=censored)
    told = timing(evidence, onsets, dict.fromkeys(("conv0", "conv1", POOLED), onsets))
    json.dumps(dataclasses.asdict(told), allow_nan=False)
    for result in (*told.leads.values(), *told.after_rise.values(), *told.by_level.values()):
        assert result.reason or result.p_value is not None
