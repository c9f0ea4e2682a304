import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS

from sparsestudy.analysis.means import mean_of, share_of


def test_the_mean_of_single_trials_is_that_of_students_t():
    values = np.random.default_rng(0).normal(3, 2, 12)
    found = mean_of(values, np.arange(12))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.estimate, found.low, found.high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_the_mean_of_groups_of_any_size_is_that_of_statsmodels():
    random = np.random.default_rng(1)
    group = random.integers(0, 9, 60)
    values = random.normal(size=9)[group] + random.normal(size=60)
    found = mean_of(values, 10 * group)
    fit = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": group}, use_t=True)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))


def test_the_share_of_single_trials_is_close_to_that_of_clopper_and_pearson():
    happened = np.arange(40) < 10
    found = share_of(happened, np.arange(40))
    expected = stats.binomtest(10, 40).proportion_ci()
    # The variance is estimated from 40 values, so that 40 trials count as 39.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_where_all_or_none_happened_every_group_is_one_trial(all_of_them):
    found = share_of(np.full(30, all_of_them), np.arange(30) // 3)
    expected = stats.binomtest(10 * all_of_them, 10).proportion_ci()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_copies_are_no_new_evidence():
    copied = share_of(np.repeat(np.arange(15) < 6, 5), np.repeat(np.arange(15), 5))
    # Fifteen groups leave 14 trials' worth of variance; quantiles with 14 degrees of freedom stand for those with 74.
    effective = 14 * (stats.t.ppf(0.975, 74) / stats.t.ppf(0.975, 14)) ** 2
    low = stats.beta.ppf(0.025, 0.4 * effective, 0.6 * effective + 1)
    high = stats.beta.ppf(0.975, 0.4 * effective + 1, 0.6 * effective)
    assert (copied.low, copied.high) == pytest.approx((low, high))
    assert copied.count == 75


def test_nothing_and_one_group_have_no_interval():
    for of, values in ((mean_of, np.ones(3)), (share_of, np.ones(3, bool))):
        assert of(values[:0], np.zeros(0, int)).reason == "no trial to take it of"
        single = of(values, np.zeros(3, int))
        assert (single.estimate, single.low, single.high) == (1, None, None)
        assert single.reason == "one configuration has no interval"


def test_intervals_of_means_and_shares_cover():
    covered = {"mean": 0, "share": 0}
    group = np.arange(60) // 3
    for seed in range(300):
        random = np.random.default_rng(seed)
        level = random.normal(size=20)[group] + random.normal(size=60)
        mean, share = mean_of(level, group), share_of(level > 1, group)
        covered["mean"] += mean.low <= 0 <= mean.high
        covered["share"] += share.low <= stats.norm.sf(1 / np.sqrt(2)) <= share.high
    # With 95 % coverage fewer than 273 of 300 happen in 0.1 % of all sets of seeds; as independent trials 60 values
    # would cover in about 80 %. The exact interval of shares may cover more.
    assert 273 <= covered["mean"] <= 295
    assert covered["share"] >= 273
