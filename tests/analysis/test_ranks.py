from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparsestudy.analysis import ranks
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.jackknife import jackknife
from sparsestudy.analysis.ranks import MOMENTS, correlate, rank_correlations, signal_at, signals_at
from tests.analysis.worlds import simulate

SIGNAL = Signal(kind="activations", layer="conv", measure="perplexity")
OTHER = Signal(kind="activations", layer="conv", measure="zero_fraction")


def study(gap, values, configuration, arms=None, **parameters):
    """Evidence of one epoch: trials with a gap and a signal."""
    n = len(gap)
    trials = pd.DataFrame({"study": "s", "trial": range(n), "arm": arms if arms is not None else ["a"] * n})
    trials = trials.assign(configuration=configuration, replicate=0, epochs=1, state="COMPLETE", seconds=1.0)
    trials = trials.assign(**{f"parameter/{name}": column for name, column in parameters.items()})
    zero = np.zeros((n, 1))
    curves = {"train/loss": zero, "validation/loss": np.reshape(gap, (n, 1)).astype(float)}
    curves |= {"train/accuracy": zero, "validation/accuracy": -curves["validation/loss"]}
    return Evidence(trials=trials, curves=curves, signals=(SIGNAL,), values=np.reshape(values, (n, 1, 1)).astype(float))


@pytest.mark.parametrize("decimals", [8, 0])
def test_correlations_are_scipys_and_left_out_ones_too(decimals):
    random = np.random.default_rng(0)
    clusters = np.unique(random.integers(0, 12, 40), return_inverse=True)[1]
    x = np.round(random.standard_normal(40), decimals)
    y = np.round(x + random.standard_normal(40), decimals)
    tau, rho = correlate(x, y, clusters)
    assert tau.estimate == pytest.approx(stats.kendalltau(x, y).statistic)
    assert rho.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    for found, of in ((tau, stats.kendalltau), (rho, stats.spearmanr)):
        left = [of(x[clusters != c], y[clusters != c]).statistic for c in range(clusters.max() + 1)]
        expected = jackknife(found.estimate, np.array(left))
        assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p))


def test_influence_is_the_limit_of_leaving_out(monkeypatch):
    evidence, _ = simulate("causal", 0, configurations=150)
    exact = rank_correlations(evidence)
    monkeypatch.setattr(ranks, "EXACT", 1)
    for one, other in zip(exact, rank_correlations(evidence), strict=True):
        for name in ("kendall", "spearman"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.estimate == b.estimate
            # To first order in 1 / 150 of an interval 0.15 to 0.3 wide.
            assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.003)


def test_interval_of_the_jackknife_by_hand():
    # Of independent normal values without replicates z has the standard error 1 / sqrt(n - 3) for Pearson's r, and for
    # Kendall's tau at zero sqrt(2 (2n + 5) / (9 n (n - 1))): the mean over 40 samples of 80 is within a tenth of it.
    widths = []
    for seed in range(40):
        x, y = np.random.default_rng(seed).standard_normal((2, 80))
        tau, _ = correlate(x, y, np.arange(80))
        widths.append((np.arctanh(tau.high) - np.arctanh(tau.low)) / 2 / stats.t.ppf(0.975, 79))
    assert np.mean(widths) == pytest.approx(np.sqrt(2 * 165 / (9 * 80 * 79)), rel=0.1)


def test_replicates_do_not_count_as_trials():
    x, y = np.random.default_rng(0).standard_normal((2, 20))
    once = correlate(x, y, np.arange(20))[0]
    copied = correlate(np.repeat(x, 3), np.repeat(y, 3), np.repeat(np.arange(20), 3))[0]
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_arms_are_strata():
    # Two arms of three: squares 2 * 0.01² within each, 3 / 2 for groups of three, (5 / 6)² for one of six left out;
    # four degrees of freedom, whose 97.5 % point is 2.7764. Between the arms there is nothing but their difference.
    z = np.array([0.0, 0.01, 0.02, 0.5, 0.51, 0.52])
    found = jackknife(0.3, np.tanh(z), strata=np.array([0, 0, 0, 1, 1, 1]))
    error = np.sqrt((5 / 6) ** 2 * 3 / 2 * 4 * 0.01**2)
    assert np.arctanh(found.high) - np.arctanh(0.3) == pytest.approx(2.7764 * error, rel=1e-4)
    assert found.p == pytest.approx(2 * stats.t.sf(np.arctanh(0.3) / error, 4))
    # Arms of one configuration are taken together, and a single such arm leaves no strata at all.
    pooled = jackknife(0.3, np.tanh(z), strata=np.array([0, 1, 2, 3, 3, 3]))
    assert pooled == jackknife(0.3, np.tanh(z), strata=np.array([0, 0, 0, 1, 1, 1]))
    assert jackknife(0.3, np.tanh(z), strata=np.array([0, 1, 1, 1, 1, 1])) == jackknife(0.3, np.tanh(z))


@pytest.mark.parametrize(
    ("value", "left", "reason"),
    [
        (np.nan, [0.1] * 9, "does not vary"),
        (0.5, [0.1] * 4, "4 configurations, an interval needs 5"),
        (0.5, [0.5] * 8 + [np.nan], "without one of the configurations"),
        (1.0, [1.0] * 9, "all pairs agree"),
        (0.5, [0.5] * 9, "the same without any"),
    ],
)
def test_reasons_why_there_is_no_interval(value, left, reason):
    found = jackknife(value, np.array(left))
    assert found.low is found.high is found.p is None
    assert reason in found.reason


def test_signal_at_the_best_epoch_is_the_one_measured_by_then():
    loss = np.array([[3.0, 1.0, 2.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, np.nan]])
    # Measured every other epoch; the layer of the third trial is dead from epoch 2 on.
    values = np.full((3, 4, 2), np.nan)
    values[:, ::2, 0] = [[0.1, 0.2], [0.3, 0.4], [0.5, np.nan]]
    values[:, ::2, 1] = 7.0
    evidence = study([0, 0, 0], [0, 0, 0], [0, 1, 2])
    evidence = Evidence(
        trials=evidence.trials.assign(epochs=[4, 4, 3]),
        curves=dict.fromkeys(evidence.curves, loss),
        signals=(SIGNAL, OTHER),
        values=values,
    )
    assert signal_at(evidence, SIGNAL, "best").tolist() == [0.1, 0.4, 0.5]
    assert signal_at(evidence, SIGNAL, "last")[:2].tolist() == [0.2, 0.4]
    assert np.isnan(signal_at(evidence, SIGNAL, "last")[2])


def test_all_signals_at_once_are_each_signal_at_its_moments():
    evidence, _ = simulate("causal", 2)
    holes = np.where(np.random.default_rng(0).random(evidence.values.shape) < 0.3, np.nan, evidence.values)
    evidence = replace(evidence, values=holes)
    found = list(signals_at(evidence))
    assert [(signal, moment) for signal, moment, _ in found] == [(s, m) for s in evidence.signals for m in MOMENTS]
    for signal, moment, values in found:
        np.testing.assert_array_equal(values, signal_at(evidence, signal, moment))
