import numpy as np
import pytest

from sparsestudy.analysis.evidence import CURVES, TRIAL_COLUMNS
from tests.analysis.worlds import HAZARD_RATIO, LEAD, WORLDS, simulate

MANY = 400


def centred(values, by):
    """Values less the mean of their group."""
    found = np.array(values, dtype=float)
    for group in set(by):
        found[by == group] -= found[by == group].mean(axis=0)
    return found


def slopes(columns, gap, clusters):
    """Least squares without intercept, and standard errors clustered by configuration."""
    inverse = np.linalg.inv(columns.T @ columns)
    found = inverse @ columns.T @ gap
    scores = columns * (gap - columns @ found)[:, None]
    sums = np.stack([np.bincount(clusters, scores[:, i]) for i in range(columns.shape[1])], axis=1)
    return found, np.sqrt(np.diag(inverse @ sums.T @ sums @ inverse))


def reached(evidence):
    return np.stack([evidence.last(evidence.series(s)) for s in evidence.signals[: len(evidence.layers)]], axis=1)


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_is_a_study_of_the_documented_shape(world):
    evidence, truth = simulate(world, 3, configurations=7, replicates=2, epochs=30, layers=4)
    again, _ = simulate(world, 3, configurations=7, replicates=2, epochs=30, layers=4)
    other, _ = simulate(world, 4, configurations=7, replicates=2, epochs=30, layers=4)
    assert np.array_equal(evidence.values, again.values, equal_nan=True)
    assert not np.array_equal(evidence.values, other.values, equal_nan=True)
    assert evidence.values.shape == (14, 30, 9)
    assert set(evidence.curves) == set(CURVES)
    assert {name: str(evidence.trials[name].dtype) for name in TRIAL_COLUMNS} == TRIAL_COLUMNS
    assert evidence.layers == ["conv1", "conv2", "conv3", "conv4"]
    assert truth.rise.shape == (14, 4)
    assert np.isfinite(evidence.gap()).all()
    ends = evidence.trials["epochs"].to_numpy()
    after = np.arange(30)[None] >= ends[:, None]
    for curve in evidence.curves.values():
        assert np.array_equal(np.isnan(curve), after)
    assert np.array_equal(np.isnan(evidence.values[:, :, 0]), after)


@pytest.mark.parametrize("world", [w for w in WORLDS if w != "censored"])
def test_slopes_within_arms_are_the_betas(world):
    evidence, truth = simulate(world, 0, configurations=MANY)
    arms = evidence.trials["arm"].to_numpy()
    columns = np.column_stack([reached(evidence), truth.hidden])
    columns = centred(columns[:, : 4 if truth.hidden.any() else 3], arms)
    found, error = slopes(columns, centred(evidence.gap(), arms), evidence.trials["configuration"].to_numpy())
    # Fifteen slopes: each beyond 4 standard errors once in 16,000 draws.
    assert np.abs(found[:3] - truth.betas) == pytest.approx(0, abs=4 * error[:3].max())
    assert error[:3].max() < 0.15
    assert truth.pooled == pytest.approx(sum(truth.betas))


@pytest.mark.parametrize("world", ["causal", "simpson", "confounded", "heteroscedastic"])
def test_signs_of_the_naive_slope(world):
    # The pooled slope lies more than ten of its standard errors from zero in each of these worlds.
    evidence, truth = simulate(world, 1, configurations=MANY)
    mean = reached(evidence).mean(axis=1)
    assert np.sign(np.polyfit(mean, evidence.gap(), 1)[0]) == truth.naive_sign
    assert (truth.naive_sign == truth.within_sign) == (world in ("causal", "heteroscedastic"))


def test_targets_move_sparsity_and_nothing_else_moves_them():
    evidence, truth = simulate("confounded", 2, configurations=MANY)
    has = ~np.isnan(evidence.targets["conv1"])
    assert has.mean() == 0.5
    target, sparsity = evidence.targets["conv1"][has], reached(evidence)[has, 0]
    assert np.corrcoef(target, sparsity)[0, 1] > 0.4
    # 200 configurations: a correlation of nothing has the standard error 0.07.
    assert abs(np.corrcoef(target[::3], truth.hidden[has][::3])[0, 1]) < 0.28
    low, high = sparsity[target < 0.4], sparsity[target > 0.7]
    assert high.mean() - low.mean() < 0.3  # of 0.45 asked for: partial compliance


def test_noise_grows_with_sparsity():
    evidence, truth = simulate("heteroscedastic", 0, configurations=MANY)
    mean, rest = reached(evidence).mean(axis=1), evidence.gap() - reached(evidence) @ np.array(truth.betas)
    low, high = np.quantile(mean, [0.3, 0.7])
    assert rest[mean > high].std() > 1.5 * rest[mean < low].std()


@pytest.mark.parametrize("world", WORLDS)
def test_curves_turn_where_the_truth_says(world):
    evidence, truth = simulate(world, 5, configurations=40)
    seen = ~truth.overfitting_censored
    loss = evidence.curves["validation/loss"]
    lowest = np.nanargmin(loss, axis=1)
    # Around its turn the loss is flat compared with its noise.
    assert np.median(np.abs(lowest - truth.overfitting)[seen]) <= 2
    ends = evidence.trials["epochs"].to_numpy()
    assert np.median((ends - 1 - lowest)[~seen]) <= 2
    risen = ~truth.rise_censored[:, 0] & (truth.rise[:, 0] < ends - 12)
    series = evidence.values[risen, :, 0]
    at = truth.rise[risen, 0]
    climb = series[np.arange(len(at)), at + 10] - series[np.arange(len(at)), at]
    assert (climb > 0).mean() > 0.95


def test_leads_and_calm_trials():
    _, truth = simulate("causal", 0, configurations=MANY)
    calm = truth.overfitting > 1000
    assert calm.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 1200))
    assert np.median(truth.overfitting[~calm] - truth.rise[~calm, 0]) == LEAD == truth.lead


def test_nothing_comes_first_in_the_null_world():
    _, truth = simulate("null", 0, configurations=4 * MANY)
    for layer in range(3):
        both = ~truth.overfitting_censored & ~truth.rise_censored[:, layer]
        lead = (truth.overfitting - truth.rise[:, layer])[both]
        # Replicates are alike: 1,600 configurations count, a share has at most the standard error 0.0125.
        assert (lead > 0).mean() - (lead < 0).mean() == pytest.approx(0, abs=4 * 2 * 0.0125)


def test_hazards_of_the_censored_world():
    evidence, truth = simulate("censored", 0, configurations=10 * MANY)
    assert truth.overfitting_censored.mean() == pytest.approx(0.6, abs=0.02)
    ends, rise = evidence.trials["epochs"].to_numpy() - 1, truth.rise[:, 0]
    stop = np.minimum(truth.overfitting, ends)
    event = ~truth.overfitting_censored
    before = (event & (truth.overfitting <= rise)).sum() / np.minimum(stop, rise).sum()
    after = (event & (truth.overfitting > rise)).sum() / np.maximum(stop - rise, 0).sum()
    # About 650 and 4,100 events: the logarithm of the ratio has the standard error 0.042. Epochs are whole, so that a
    # hazard h shows as 1 - exp(-h): 2 % less after the rise, 1 % before.
    assert np.log(after / before) == pytest.approx(np.log(HAZARD_RATIO), abs=4 * 0.042 + 0.02)
    # 12,000 trials and a density of about 0.03 an epoch at the median: standard error 0.15 epochs.
    assert np.median(truth.overfitting - rise) == pytest.approx(truth.lead, abs=1)
