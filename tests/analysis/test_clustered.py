"""The small-sample sandwich, against dense matrices, statsmodels and scipy."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from sparsestudy.analysis.clustered import Design, contrast_effect, indicators
from sparsestudy.analysis.estimate import Estimate


def standard_error(effect: Estimate) -> float:
    return (effect.high - effect.estimate) / stats.t.ppf(0.975, effect.freedom)


def dense_cr2(columns, response, clusters, contrast):
    """Standard error and freedom by the definitions of Pustejovsky & Tipton 2018, with n by n matrices."""
    inverse = np.linalg.pinv(columns.T @ columns)
    keep = np.eye(len(columns)) - columns @ inverse @ columns.T
    variance, rows = 0.0, []
    for cluster in np.unique(clusters):
        own = np.flatnonzero(clusters == cluster)
        values, vectors = np.linalg.eigh(keep[np.ix_(own, own)])
        root = vectors @ np.diag(np.where(values > 1e-9, np.maximum(values, 1e-9) ** -0.5, 0)) @ vectors.T
        weights = root @ columns[own] @ inverse @ contrast
        variance += (weights @ (keep @ response)[own]) ** 2
        rows.append(keep[:, own] @ weights)
    inner = np.array(rows) @ np.array(rows).T
    return np.sqrt(variance), np.trace(inner) ** 2 / (inner**2).sum()


def test_single_trial_clusters_are_hc2():
    random = np.random.default_rng(0)
    columns, response = random.standard_normal((30, 3)), random.standard_normal(30)
    fit = sm.OLS(response, columns).fit(cov_type="HC2")
    found = contrast_effect(Design.of(columns, range(30)), response, [0, 1, 0], scale=2.0)
    assert found.estimate == pytest.approx(2 * fit.params[1], rel=1e-10)
    assert standard_error(found) == pytest.approx(2 * fit.bse[1], rel=1e-10)
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize("seed", range(4))
def test_clusters_of_unequal_size_as_by_dense_matrices(seed):
    random = np.random.default_rng(seed)
    clusters = np.sort(random.integers(0, 9, 40))
    columns = np.column_stack([random.standard_normal(40), indicators(clusters % 3)])
    columns[:, 0] += clusters
    response = random.standard_normal(40)
    shuffled = random.permutation(40)
    error, freedom = dense_cr2(columns, response, clusters, np.eye(4)[0])
    found = contrast_effect(Design.of(columns[shuffled], clusters[shuffled]), response[shuffled], [1, 0, 0, 0])
    assert standard_error(found) == pytest.approx(error, rel=1e-8)
    assert found.freedom == pytest.approx(freedom, rel=1e-8)


def test_an_arm_of_a_single_configuration_fits_itself_and_does_no_harm():
    # CR3 is singular here: leaving the configuration out leaves nothing to estimate its arm by.
    random = np.random.default_rng(1)
    clusters = np.repeat(np.arange(8), 3)
    columns = np.column_stack([random.standard_normal(24), clusters == 0, clusters > 0]).astype(float)
    response = random.standard_normal(24)
    error, freedom = dense_cr2(columns, response, clusters, np.eye(3)[0])
    found = contrast_effect(Design.of(columns, clusters), response, [1, 0, 0])
    assert standard_error(found) == pytest.approx(error, rel=1e-8)
    assert found.freedom == pytest.approx(freedom, rel=1e-8)


@pytest.mark.parametrize(("few", "many"), [(2, 3), (4, 4), (3, 12)])
def test_two_groups_of_clusters_are_welch_on_their_means(few, many):
    # The variance is Welch's; the freedom is equation (12) of Imbens & Kolesar 2016 for groups of N0 and N1.
    random = np.random.default_rng(few)
    treated = np.repeat([0.0, 1.0], [few, many])
    means = random.standard_normal(few + many)
    noise = random.standard_normal((few + many, 2))
    response = (means[:, None] + np.column_stack([noise[:, 0], -noise[:, 0]])).ravel()
    columns = np.column_stack([np.repeat(treated, 2), np.ones(2 * len(treated))])
    found = contrast_effect(Design.of(columns, np.repeat(np.arange(len(treated)), 2)), response, [1, 0])
    welch = stats.ttest_ind(means[treated == 1], means[treated == 0], equal_var=False)
    top = (few + many) ** 2 * (few - 1) * (many - 1)
    freedom = top / (many**2 * (many - 1) + few**2 * (few - 1))
    assert found.estimate / standard_error(found) == pytest.approx(welch.statistic, rel=1e-9)
    assert found.freedom == pytest.approx(freedom, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(welch.statistic), freedom), rel=1e-9)


def test_what_cannot_be_told_apart_is_said_and_the_rest_estimated():
    random = np.random.default_rng(2)
    x, response = random.standard_normal((2, 20))
    columns = np.column_stack([x, np.ones(20), np.ones(20)])
    design = Design.of(columns, range(20))
    assert contrast_effect(design, response, [0, 1, 0]).reason == "it does not vary apart from what is held constant"
    fit = sm.OLS(response, columns[:, :2]).fit(cov_type="HC2")
    found = contrast_effect(design, response, [1, 0, 0])
    assert found.estimate == pytest.approx(fit.params[0], rel=1e-9)
    assert standard_error(found) == pytest.approx(fit.bse[0], rel=1e-9)
    both = contrast_effect(design, response, [0, 1, 1])
    assert both.estimate == pytest.approx(fit.params[1], rel=1e-9)


def test_no_noise_no_variation_and_one_cluster_have_no_interval():
    x = np.arange(6.0)
    columns = np.column_stack([x, np.ones(6)])
    design = Design.of(columns, range(6))
    assert "no noise to judge it by" in contrast_effect(design, 3 * x, [1, 0]).reason
    assert "no noise to judge it by" in contrast_effect(design, np.ones(6), [1, 0]).reason
    alone = contrast_effect(Design.of(columns, np.zeros(6)), x**2, [1, 0])
    assert alone == Estimate(reason="too few configurations vary for an interval")
    assert not alone.excludes(0.0)
    constant = Design.of(np.column_stack([np.full(6, 0.3), np.ones(6)]), range(6))
    assert contrast_effect(constant, x**2, [1, 0]).estimate is None
