import numpy as np
import pytest
from scipy import optimize
from statsmodels.duration.survfunc import SurvfuncRight

from sparsestudy.analysis.turnbull import quantile, shares


def counted(values, kinds, places):
    """Counts ``[1, M]`` by kind: 0 seen, 1 below, 2 above."""
    table = np.zeros((3, 1, len(places)))
    np.add.at(table, (kinds, 0, values - places[0]), 1)
    return table


@pytest.mark.parametrize("seed", range(3))
def test_censored_on_the_right_it_is_the_estimator_of_kaplan_and_meier(seed):
    random = np.random.default_rng(seed)
    values, open_ = random.integers(1, 20, 60), random.random(60) < 0.5
    places = np.arange(0, 21)
    found = shares(*counted(values, np.where(open_, 2, 0), places))[0]
    expected = SurvfuncRight(values, ~open_)
    np.testing.assert_allclose(1 - np.cumsum(found)[expected.surv_times.astype(int)], expected.surv_prob, atol=1e-6)


def test_censored_on_the_left_it_is_the_mirror_image():
    random = np.random.default_rng(3)
    values, open_ = random.integers(1, 20, 60), random.random(60) < 0.5
    left = shares(*counted(values, np.where(open_, 1, 0), np.arange(0, 21)))[0]
    right = shares(*counted(20 - values, np.where(open_, 2, 0), np.arange(0, 21)))[0]
    np.testing.assert_allclose(left, right[::-1], atol=1e-9)


def test_censored_on_both_sides_it_is_the_maximum_of_the_likelihood():
    random = np.random.default_rng(4)
    values, kinds = random.integers(1, 6, 40), random.choice(3, 40, p=(0.5, 0.25, 0.25))
    seen, below, above = counted(values, kinds, np.arange(0, 7))

    def deviance(share):
        cumulative = np.cumsum(share)
        parts = (seen[0], share), (below[0], cumulative - share), (above[0], 1 - cumulative)
        return -sum((count * np.log(np.maximum(part, 1e-12)))[count > 0].sum() for count, part in parts)

    best = optimize.minimize(
        deviance, np.full(7, 1 / 7), bounds=[(0, 1)] * 7, constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
        method="SLSQP", options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert best.success
    found = shares(seen, below, above)[0]
    assert found.sum() == pytest.approx(1)
    assert deviance(found) == pytest.approx(best.fun, abs=1e-4)


def test_samples_are_estimated_apart_from_each_other():
    random = np.random.default_rng(5)
    tables = [counted(random.integers(1, 9, 30), random.choice(3, 30), np.arange(0, 10)) for _ in range(4)]
    together = shares(*np.concatenate(tables, axis=1))
    np.testing.assert_allclose(together, np.concatenate([shares(*table) for table in tables]), atol=1e-6)


def test_quantiles_spread_every_place_over_half_a_step_to_each_side():
    # Ten values: 2 at the place 3, 4 at 4, 4 at 5; half of them lie below 3.5 + 3 / 4.
    share = np.array([[0.0, 0.2, 0.4, 0.4, 0.0]])
    assert quantile(share, 2, 0.5) == pytest.approx(4.25)
    assert quantile(share, 2, 0.1) == pytest.approx(3.0)


def test_quantiles_outside_all_places_are_infinite_and_of_nothing_undefined():
    share = np.array([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 0.0]])
    assert quantile(share, 0, 0.5).tolist()[:2] == [-np.inf, np.inf]
    assert np.isnan(quantile(share, 0, 0.5)[2])
    empty = np.zeros((1, 3))
    assert shares(empty, empty, empty).tolist() == [[0, 0, 0]]
