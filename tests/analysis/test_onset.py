"""Where onsets are found in series whose onset is known, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from sparsestudy.analysis.onset import overfitting_onset, smoothed, sparsity_onset
from sparsestudy.analysis.rise import SHORTEST
from tests.analysis.test_rise import noise

EPOCHS, SIGMA = 60, 0.005
AT = np.arange(EPOCHS)


def climb(onset: float, slope: float) -> np.ndarray:
    return slope * np.maximum(AT - onset, 0)


SHAPES = {
    # name: the mean, and the epoch at which its last sustained rise begins
    "flat, then a climb": (0.6 + climb(30, 0.005), 30),
    "falls, then climbs": (0.7 - 0.004 * AT + climb(25, 0.012), 25),
    "falls fast, stays, then climbs": (0.5 + 0.3 * np.exp(-AT / 4) + climb(35, 0.006), 35),
    "climbs to a plateau": (0.6 + climb(20, 0.02) - climb(30, 0.02), 20),
    "steps up": (0.6 + 0.2 * (AT >= 30), 30),
    "climbs, falls, climbs": (0.5 + climb(5, 0.02) - climb(20, 0.04) + climb(35, 0.03), 35),
    "climbs from the start": (0.5 + climb(0, 0.004), 0),
    "climbs late": (0.6 + climb(50, 0.02), 50),
}


@pytest.mark.parametrize("phi", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_start_of_the_last_sustained_rise_is_found(shape: str, phi: float) -> None:
    mean, onset = SHAPES[shape]
    found = sparsity_onset(mean + SIGMA * noise(phi, EPOCHS, series=200))
    assert not found.censored.any()
    error = found.epoch - onset
    # The rises are 15 to 40 times the noise; a kink is blunted by the noise of a few epochs on either side.
    assert abs(np.median(error)) <= 2
    assert np.mean(np.abs(error) <= 6) >= 0.9


def test_without_noise_a_kink_is_found_to_the_epoch() -> None:
    onsets = np.arange(8, 50)
    series = np.stack([0.7 - 0.004 * AT + climb(onset, 0.015) for onset in onsets])
    np.testing.assert_array_equal(sparsity_onset(series).epoch, onsets)


def test_a_series_that_is_measured_now_and_then_keeps_its_epochs() -> None:
    series = np.full((50, 200), np.nan)
    at = np.append(np.arange(0, 199, 5), 199)
    series[:, at] = 0.6 + 0.004 * np.maximum(at - 100, 0) + SIGMA * noise(0.0, len(at), series=50)
    found = sparsity_onset(series)
    assert not found.censored.any()
    assert set(found.epoch) <= set(at)
    assert abs(np.median(found.epoch) - 100) <= 5


def test_series_are_judged_alone_and_infinities_count_as_missing() -> None:
    series = np.stack([0.7 - 0.004 * AT + climb(25, 0.012), 0.7 - 0.004 * AT])
    gaps = series.copy()
    gaps[0, [3, 40]] = np.nan
    gaps[1, 7] = np.inf
    alone = [sparsity_onset(gaps[i : i + 1]) for i in range(2)]
    both = sparsity_onset(gaps)
    assert both.epoch.tolist() == [int(one.epoch[0]) for one in alone] == [25, EPOCHS - 1]
    assert both.censored.tolist() == [bool(one.censored[0]) for one in alone] == [False, True]


def test_what_does_not_rise_is_censored_at_its_last_measured_epoch() -> None:
    series = np.stack([0.7 - 0.004 * AT, np.full(EPOCHS, 0.5), 0.7 - 0.004 * AT])
    series[2, 33:] = np.nan  # the layer died, or the trial was stopped
    found = sparsity_onset(series)
    assert found.censored.all()
    assert found.epoch.tolist() == [59, 59, 32]
    loss = overfitting_onset(series)
    assert loss.censored.all()
    assert loss.epoch.tolist() == [59, 59, 32]


def test_nothing_is_said_of_what_was_hardly_measured() -> None:
    series = np.full((3, EPOCHS), np.nan)
    series[1, :5] = [0.1, 0.2, 0.3, 0.4, 0.5]
    series[2, : SHORTEST - 1] = np.arange(SHORTEST - 1)
    for found in (sparsity_onset(series), overfitting_onset(series)):
        assert found.epoch.tolist() == [-1, -1, -1]
        assert found.censored.all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 40), (2, 0), (2, 1)])
def test_empty_evidence_has_no_onsets(shape: tuple[int, int]) -> None:
    found = sparsity_onset(np.ones(shape))
    assert found.epoch.tolist() == [-1] * shape[0]
    assert found.censored.tolist() == [True] * shape[0]


def test_small_rises_count_only_if_wanted() -> None:
    series = (0.6 + climb(30, 0.0002))[None]
    assert sparsity_onset(series).censored.tolist() == [True]
    found = sparsity_onset(series, least=0.005)
    assert (found.epoch.tolist(), found.censored.tolist()) == ([30], [False])


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_any_unit_will_do(scale: float) -> None:
    found = sparsity_onset(scale * (0.7 - 0.004 * AT + climb(25, 0.012))[None], least=0.0)
    assert (found.epoch.tolist(), found.censored.tolist()) == ([25], [False])


def test_single_precision_will_do() -> None:
    series = (0.7 - 0.004 * AT + climb(25, 0.012)).astype(np.float32)[None]
    assert sparsity_onset(series).epoch.tolist() == [25]


@pytest.mark.parametrize("phi", [0.0, 0.5])
@pytest.mark.parametrize("onset", [15, 30, 45])
def test_overfitting_begins_at_the_lowest_smoothed_loss(onset: int, phi: float) -> None:
    # As steep on either side, so that smoothing moves the minimum to neither.
    loss = 0.5 + 0.02 * np.abs(AT - onset) + 0.01 * noise(phi, EPOCHS, series=200)
    found = overfitting_onset(loss)
    assert not found.censored.any()
    assert abs(np.median(found.epoch - onset)) <= 1
    np.testing.assert_array_equal(found.epoch, smoothed(loss).argmin(axis=1))


def test_a_steep_descent_hides_no_overfitting() -> None:
    loss = 0.4 + 2 * np.exp(-AT / 5) + climb(30, 0.01) + 0.02 * noise(0.3, EPOCHS, series=200)
    found = overfitting_onset(loss)
    assert np.mean(~found.censored) >= 0.95
    assert abs(np.median(found.epoch[~found.censored]) - 30) <= 4


def test_a_loss_that_settles_is_no_overfitting() -> None:
    """A control: 200 runs that go on falling, ever more slowly; more than 19 alarms at 5 % come once in 1000 times."""
    loss = 0.4 + 2 * np.exp(-AT / 8) + 0.02 * noise(0.6, EPOCHS, series=200)
    assert (~overfitting_onset(loss).censored).sum() <= 19


def test_smoothing_is_numpy_s_convolution_inside_and_shorter_means_at_the_ends() -> None:
    series = np.random.default_rng(0).standard_normal((2, 12))
    mean = smoothed(series)
    for own, of in zip(mean, series, strict=True):
        np.testing.assert_allclose(own[2:-2], np.convolve(of, np.full(5, 0.2), "valid"), atol=1e-12)
        assert own[0] == pytest.approx(of[:3].mean())
        assert own[-2] == pytest.approx(of[-4:].mean())
