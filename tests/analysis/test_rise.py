"""The test for a rise: its false alarms under noise that is correlated, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import binom

from sparsestudy.analysis.rise import PHIS, SHORTEST, rises, unit, variance_of_mean

Floats = NDArray[np.float64]
SERIES = 1000


def noise(phi: float, epochs: int, seed: int = 1, series: int = SERIES) -> Floats:
    """AR(1) of variance 1, by scipy's filter from its stationary start."""
    drawn = np.random.default_rng(seed).standard_normal((series, epochs))
    drawn[:, 0] /= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], drawn, axis=1))


def alarms(series: Floats, alpha: float = 0.05) -> int:
    return int(rises(unit(series), alpha)[0].sum())


def most(alpha: float) -> int:
    """A test of that level has more false alarms than this among `SERIES` once in a thousand times."""
    return int(binom.ppf(0.999, SERIES, alpha))


@pytest.mark.parametrize("epochs", [SHORTEST, 20, 50, 110])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.9])
def test_noise_without_a_rise_raises_few_alarms(phi: float, epochs: int) -> None:
    assert alarms(noise(phi, epochs)) <= most(0.05)


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_fewer_alarms_where_fewer_are_asked_for(phi: float) -> None:
    series = noise(phi, 40)
    assert alarms(series, 0.01) <= most(0.01)
    assert alarms(series, 0.2) >= alarms(series, 0.01)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    "mean",
    [
        lambda t: -4 * t,
        lambda t: 30 * np.exp(-8 * t),
        lambda t: 100 * (1 - t) ** 2,
        lambda t: -10.0 * (t > 0.5),
        lambda t: 200 * np.maximum(0.4 - t, 0),
        lambda t: -5 * t**4,
    ],
    ids=["line", "exponential", "parabola", "step", "broken line", "late fall"],
)
def test_a_mean_that_falls_raises_no_more_alarms_than_a_constant_one(mean, phi: float) -> None:
    assert alarms(noise(phi, 50) + mean(np.arange(50) / 50)) <= most(0.05)


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0, 1e300])
def test_a_constant_series_does_not_rise(value: float) -> None:
    assert alarms(np.full((3, 30), value)) == 0


def test_shift_and_scale_do_not_matter() -> None:
    series = noise(0.3, 40, series=200) + np.linspace(0, 4, 40)
    found = rises(unit(series))[0]
    assert 0 < found.sum() < 200
    np.testing.assert_array_equal(rises(unit(1e-200 * series))[0], found)
    np.testing.assert_array_equal(rises(unit(1e3 + 1e5 * series))[0], found)


@pytest.mark.parametrize(
    ("mean", "least"),
    [
        # Rises of 8 standard deviations of the noise, at least 60 % of which the worst of these must find, and of 20.
        (lambda t: 8 * np.maximum(t - 0.5, 0) * 2, 0.6),
        (lambda t: 20 * np.maximum(t - 0.5, 0) * 2, 0.99),
        (lambda t: 20 * np.abs(t - 0.5) * 2, 0.99),
        (lambda t: 20.0 * (t > 0.5), 0.99),
        (lambda t: 20 * np.clip((t - 0.3) * 5, 0, 1), 0.99),
        (lambda t: 60 * np.exp(-12 * t) + 20 * np.maximum(t - 0.5, 0) * 2, 0.99),
    ],
    ids=["ramp of 8", "ramp", "V", "step", "plateau", "fall and ramp"],
)
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.9])
def test_rises_are_found(mean, least: float, phi: float) -> None:
    assert alarms(noise(phi, 50) + mean(np.arange(50) / 50)) >= least * SERIES


def test_what_rises_and_falls_back_has_not_risen() -> None:
    bump = 20 * np.exp(-(((np.arange(60) - 25) / 6) ** 2))
    assert alarms(noise(0.3, 60) + bump) <= most(0.05)


def test_a_smooth_curve_without_noise_is_taken_at_its_word() -> None:
    t = np.linspace(0, 1, 40)
    turns, falls = (1 - t) ** 2 + 0.1 * np.maximum(t - 0.7, 0), (1 - t) ** 2
    assert rises(unit(np.stack([turns + 2 * t, falls])))[0].tolist() == [True, False]


@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("phi", [0.0, 0.5, PHIS[-1]])
def test_variance_of_a_mean_is_the_mean_of_all_covariances(width: int, phi: float) -> None:
    covariances = phi ** np.abs(np.subtract.outer(np.arange(width), np.arange(width)))
    assert variance_of_mean(width, np.array([phi]))[0] == pytest.approx(covariances.mean(), rel=1e-12)
