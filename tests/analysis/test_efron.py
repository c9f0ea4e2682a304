import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg

from sparsestudy.analysis.efron import Episodes, standard_error


def drawn(seed, groups=24):
    """Runs with ties, delayed entry and strata, two to a group."""
    random = np.random.default_rng(seed)
    count = 2 * groups
    start = random.integers(0, 4, count)
    found = Episodes(
        trial=np.arange(count), start=start, stop=start + random.integers(1, 12, count),
        event=random.random(count) < 0.7, covariate=random.normal(size=count),
    )  # fmt: skip
    return found, np.arange(count) // 2 % 2, np.arange(count) // 2


def model(episodes, stratum, mask=slice(None)):
    return PHReg(
        episodes.stop[mask], episodes.covariate[mask, None], status=episodes.event[mask],
        entry=episodes.start[mask] + 0.5, strata=stratum[mask], ties="efron",
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_it_is_one_newton_step_of_statsmodels_without_each_group(seed):
    episodes, stratum, group = drawn(seed)
    slope = model(episodes, stratum).fit().params
    steps = []
    for left_out in np.unique(group):
        others = model(episodes, stratum, group != left_out)
        steps.append(-others.score(slope)[0] / others.hessian(slope)[0, 0])
    expected = np.sqrt(23 / 24 * np.square(steps).sum())
    assert standard_error(episodes, stratum, group, float(slope[0])) == pytest.approx(expected, rel=1e-8)


def test_it_is_near_to_fitting_anew_without_each_group():
    episodes, stratum, group = drawn(7, groups=60)
    slope = model(episodes, stratum).fit().params[0]
    fits = [model(episodes, stratum, group != g).fit().params[0] for g in np.unique(group)]
    expected = np.sqrt(59 / 60 * np.square(np.array(fits) - slope).sum())
    assert standard_error(episodes, stratum, group, slope) == pytest.approx(expected, rel=0.05)


def test_copies_of_runs_in_the_same_group_change_little():
    episodes, stratum, group = drawn(8, groups=60)
    twice = episodes.only(np.repeat(np.arange(120), 2))
    one = standard_error(episodes, stratum, group, 0.3)
    # The share of each group in risk sets of untied events stays; Efron's ties move it a little.
    assert standard_error(twice, np.repeat(stratum, 2), np.repeat(group, 2), 0.3) == pytest.approx(one, rel=0.15)


def test_what_hangs_on_one_group_has_no_error():
    episodes = Episodes(
        trial=np.arange(4), start=np.zeros(4, int), stop=np.array([3, 5, 4, 6]), event=np.array([1, 1, 1, 1], bool),
        covariate=np.array([1.0, 0, 0, 0]),
    )  # fmt: skip
    assert standard_error(episodes, np.zeros(4, int), np.arange(4), 0.0) is None
