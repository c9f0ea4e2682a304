"""Rules that stop a run while it runs: each sees nothing but the past. Replayed here on recorded curves.

An alarm at epoch t means that the rule, with all values up to and including t, says stop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsestudy.analysis.onset import Onsets

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
PATIENCE = 10
"""Epochs without a new lowest value before patience ends; long enough that noise rarely ends it."""
PHIS = (0.0, 0.3, 0.6)
"""Autocorrelations of the noise for which the rate of false alarms is held."""
_WEIGHT, _WARM_UP, _DRAWS = 0.3, 8, 4000


def rise_alarm(series: Floats, false_alarms: float = 0.05, least: float = 0.01) -> Onsets:
    """Alarm when a series stands well above its lowest level so far.

    An exponentially weighted moving average (weight 0.3; Roberts 1959, Technometrics 1) against its own lowest value
    so far, in units of the noise: the form of Page's CUSUM (1954, Biometrika 41) with the average in place of the sum.
    A level that falls makes the difference smaller, so that a constant one is the worst case. The noise is the mean
    absolute second difference so far, which a smooth trend hardly touches, and the first `_WARM_UP` values raise no
    alarm. The threshold is a Monte Carlo quantile (seeded, cached by length) of the largest value over a whole run
    without a rise under Gaussian AR(1) noise, for the worst of `PHIS`. Noise with more autocorrelation raises more
    false alarms: in 60 epochs one in four runs with 0.75, two in three with 0.9. DERIVED: the parts are the papers',
    their combination and calibration are ours.

    Args:
        series: ``[n, E]``, NaN where it was not measured.
        false_alarms: Share of runs of E epochs without a rise that raise an alarm, at most.
        least: Rises smaller than this, in the unit of the series, are no alarm.

    Returns:
        Alarms ``[n]``; those of runs without one are censored at the last measured epoch.

    Example:
        >>> falls_then_climbs = np.abs(np.arange(60) - 30.0)[None] / 60
        >>> alarm = rise_alarm(falls_then_climbs + np.random.default_rng(0).normal(0, 0.01, (1, 60)))
        >>> int(alarm.epoch[0]), bool(alarm.censored[0])
        (37, False)
    """
    measured = np.isfinite(series)
    counts = measured.sum(axis=1)
    epoch, censored = _last(series), np.ones(len(series), dtype=np.bool_)
    epoch = np.where(counts > _WARM_UP, epoch, -1)
    for length in np.unique(counts[counts > _WARM_UP]):
        rows = np.flatnonzero(counts == length)
        at = np.nonzero(measured[rows])[1].reshape(len(rows), length)
        own = np.take_along_axis(series[rows], at, axis=1).astype(np.float64)
        scale = np.abs(own).max(axis=1, keepdims=True)
        scale = np.where(scale > 0, scale, 1.0)
        risen, noise = _risen(own / scale)
        # Rounding is no rise, even of a series without noise.
        fired = (risen > np.maximum(_threshold(series.shape[1], false_alarms) * noise, 1e-9)) & (risen * scale >= least)
        fired[:, :_WARM_UP] = False
        found = fired.any(axis=1)
        epoch[rows[found]] = at[found, fired[found].argmax(axis=1)]
        censored[rows[found]] = False
    return Onsets(epoch=epoch, censored=censored)


def _risen(series: Floats) -> tuple[Floats, Floats]:
    """Moving average above its lowest value so far, and standard deviation of white noise so far; ``[n, E]`` each."""
    mean = series.copy()
    for t in range(1, series.shape[1]):
        mean[:, t] = (1 - _WEIGHT) * mean[:, t - 1] + _WEIGHT * series[:, t]
    bend = np.abs(np.diff(series, n=2, axis=1)).cumsum(axis=1) / np.arange(1, series.shape[1] - 1)
    # Of white noise the second difference has variance 6, and a normal value the mean absolute value sqrt(2 / pi).
    noise = np.concatenate([np.zeros((len(series), 2)), bend / np.sqrt(12 / np.pi)], axis=1)
    return mean - np.minimum.accumulate(mean, axis=1), noise


@lru_cache(maxsize=64)
def _threshold(length: int, false_alarms: float) -> float:
    """Quantile of the largest rise in units of the noise over runs of ``length`` epochs that do not rise."""
    random, found = np.random.default_rng(length), []
    for phi in PHIS:
        series = random.standard_normal((_DRAWS, length))
        series[:, 1:] *= np.sqrt(1 - phi**2)
        for t in range(1, length):
            series[:, t] += phi * series[:, t - 1]
        risen, noise = _risen(series)
        largest = (risen[:, _WARM_UP:] / noise[:, _WARM_UP:]).max(axis=1, initial=0.0)
        found.append(float(np.quantile(largest, 1 - false_alarms)))
    return max(found)


def patience_alarm(series: Floats, patience: int = PATIENCE) -> Onsets:
    """Alarm once a series has had no new lowest value for ``patience`` epochs.

    The usual early stopping (Goodfellow, Bengio and Courville 2016, Deep Learning, algorithm 7.1).

    Args:
        series: Such as the validation loss; ``[n, E]``, NaN where it was not measured.
        patience: In epochs.

    Returns:
        Alarms ``[n]``; those of runs without one are censored at the last measured epoch.

    Example:
        >>> patience_alarm(np.array([[3.0, 2, 1, 2, 2, 2], [6, 5, 4, 3, 2, 1]]), patience=3)
        Onsets(epoch=array([5, 5]), censored=array([False,  True]))
    """
    measured = np.isfinite(series)
    filled = np.where(measured, series, np.inf)
    lowest = np.minimum.accumulate(filled, axis=1)
    earlier = np.concatenate([np.full((len(series), 1), np.inf), lowest[:, :-1]], axis=1)
    at = np.arange(series.shape[1])
    best = np.maximum.accumulate(np.where(filled < earlier, at, -1), axis=1)
    fired = (best >= 0) & (at - best >= patience) & measured
    censored = np.logical_not(fired.any(axis=1))
    return Onsets(epoch=np.where(censored, _last(series), fired.argmax(axis=1)), censored=censored)


def constant_alarm(excess: Floats, last: Whole, configuration: Whole) -> Onsets | None:
    """Stop every run at one epoch, the best for all configurations but its own.

    The baseline that any detector has to beat: it knows the schedule and nothing of the run.

    Args:
        excess: Excess loss of each run if stopped at each epoch; that of its last one afterwards. ``[n, E]``.
        last: Last epoch of each run, ``[n]``.
        configuration: Number of each run's configuration, ``[n]``; with one there is nothing to choose from (None).

    Example:
        >>> excess = np.array([[4.0, 0, 1], [3, 0, 2], [0, 2, 3]])
        >>> constant_alarm(excess, np.array([2, 2, 2]), np.array([0, 1, 2])).epoch.tolist()
        [1, 1, 1]
        >>> constant_alarm(excess[1:], np.array([2, 2]), np.array([0, 1])).epoch.tolist()
        [0, 1]
    """
    group = np.unique(configuration, return_inverse=True)[1]
    if len(group) == 0 or group.max() == 0:
        return None
    sums = np.zeros((group.max() + 1, excess.shape[1]))
    np.add.at(sums, group, excess)
    counts = np.bincount(group)[:, None]
    best = ((sums.sum(axis=0) - sums) / (counts.sum() - counts)).argmin(axis=1)[group]
    return Onsets(epoch=np.minimum(best, last), censored=best >= last)


def _last(series: Floats) -> Whole:
    """Last measured epoch of each series, -1 without any."""
    found: Whole = np.where(np.isfinite(series), np.arange(series.shape[1]), -1).max(axis=1, initial=-1)
    return found.astype(np.int64)
