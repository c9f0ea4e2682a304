import numpy as np
import pytest

from sparsestudy.analysis.alarms import constant_alarm, patience_alarm, rise_alarm
from tests.analysis.timing_worlds import noise

EPOCHS = np.arange(60)


def drawn(phi, count=1000, epochs=60, seed=11):
    return noise(np.random.default_rng(seed), (count, epochs), phi)


@pytest.mark.parametrize("epochs", [12, 30, 60, 150])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6])
def test_runs_without_a_rise_raise_no_more_false_alarms_than_stated(phi, epochs):
    # At a rate of 5 % more than 72 of 1000 happen in 0.1 % of all sets of seeds.
    assert (~rise_alarm(drawn(phi, epochs=epochs), least=0.0).censored).sum() <= 72


def test_the_stated_rate_is_used_up_where_it_is_hardest_to_hold():
    # At the autocorrelation the threshold is made for; at 5 % fewer than 30 of 1000 happen in 0.1 % of all sets.
    assert (~rise_alarm(drawn(0.6), least=0.0).censored).sum() >= 30
    assert (~rise_alarm(drawn(0.6), 0.2, least=0.0).censored).sum() >= 160


@pytest.mark.parametrize("trend", [-0.002 * EPOCHS, 0.3 * np.exp(-EPOCHS / 5), -0.01 * np.maximum(EPOCHS - 30, 0)])
def test_levels_that_fall_raise_no_more_false_alarms(trend):
    assert (~rise_alarm(0.5 + trend + drawn(0.6), least=0.0).censored).sum() <= 72


def test_climbs_are_found_soon_and_not_before():
    climb = 0.3 * np.exp(-EPOCHS / 4) + 0.014 * np.clip(EPOCHS - 20, 0, 18)
    alarm = rise_alarm(0.4 + climb + drawn(0.4, 200))
    assert not alarm.censored.any()
    assert (alarm.epoch > 20).mean() > 0.97
    assert np.median(alarm.epoch) <= 29


def test_an_alarm_sees_the_past_only():
    series = 0.5 + 0.01 * np.maximum(EPOCHS - 30, 0) + drawn(0.4, 50)
    alarm = rise_alarm(series)
    changed = np.where(alarm.epoch[:, None] < EPOCHS, np.random.default_rng(0).random(series.shape), series)
    again = rise_alarm(changed)
    assert again.epoch.tolist() == alarm.epoch.tolist()
    assert again.censored.tolist() == alarm.censored.tolist()


def test_gaps_are_left_out():
    series = 0.5 + 0.01 * np.maximum(EPOCHS - 30, 0) + drawn(0.0, 40)
    gaps = np.full((40, 120), np.nan)
    gaps[:, ::2] = series
    full = rise_alarm(np.concatenate([series, np.full((40, 60), np.nan)], axis=1))
    assert rise_alarm(gaps).epoch.tolist() == (2 * full.epoch).tolist()


def test_units_do_not_matter_and_small_rises_only_where_wanted():
    series = 0.5 + 0.0001 * np.maximum(EPOCHS - 30, 0)[None] + 0.00003 * drawn(0.0, 1)
    assert rise_alarm(series).censored.all()
    found = rise_alarm(series, least=0.0)
    assert not found.censored.any()
    assert rise_alarm(1e300 * series, least=0.0).epoch.tolist() == found.epoch.tolist()


@pytest.mark.parametrize(
    "series", [np.full((2, 40), 0.3), np.full((2, 40), np.nan), np.zeros((2, 5)), np.zeros((0, 40))]
)
def test_series_that_are_constant_empty_or_short_raise_none(series):
    alarm = rise_alarm(series)
    assert alarm.censored.all()
    assert alarm.epoch.tolist() == [39 if np.isfinite(series).any() and series.shape[1] == 40 else -1] * len(series)


def test_rounding_is_no_rise():
    assert rise_alarm(np.full((1, 40), 0.1) + 1e-17 * EPOCHS[:40], least=0.0).censored.all()


def test_a_climb_without_noise_is_found_at_once():
    assert rise_alarm(np.maximum(EPOCHS - 20, 0.0)[None] / 60).epoch.tolist() == [22]


def test_patience_ends_after_as_many_epochs_without_a_new_lowest_value():
    losses = np.array([[5.0, 4, 3, 4, 4, 2, 3, 3, 3, 1], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]])
    alarm = patience_alarm(losses, patience=3)
    assert (alarm.epoch.tolist(), alarm.censored.tolist()) == ([8, 9], [False, True])
    assert patience_alarm(losses, patience=2).epoch.tolist() == [4, 9]


def test_patience_takes_an_equal_value_for_no_better_and_overlooks_gaps():
    nan = np.nan
    alarm = patience_alarm(np.array([[3.0, 3, 3, 3], [nan, 3, nan, nan], [nan] * 4, [3, nan, nan, 4]]), patience=3)
    assert alarm.epoch.tolist() == [3, 1, -1, 3]
    assert alarm.censored.tolist() == [False, True, True, False]


def test_the_constant_epoch_is_chosen_without_the_runs_own_configuration():
    random = np.random.default_rng(0)
    excess, configuration = random.random((12, 7)), np.arange(12) // 3
    alarm = constant_alarm(excess, np.full(12, 6), configuration)
    for trial in range(12):
        others = excess[configuration != configuration[trial]].mean(axis=0)
        assert alarm.epoch[trial] == others.argmin()
        assert alarm.censored[trial] == (others.argmin() == 6)


def test_one_configuration_has_no_constant_epoch():
    assert constant_alarm(np.zeros((3, 4)), np.full(3, 3), np.zeros(3, int)) is None
    assert constant_alarm(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, int)) is None
