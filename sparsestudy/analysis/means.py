"""Means and shares over trials, with intervals that know that replicates of one configuration belong together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sparsestudy.analysis.estimate import Estimate

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]


def mean_of(values: Floats, group: Whole) -> Estimate:
    """Mean with a Student's t interval from the sums of its groups (Liang and Zeger 1986, Biometrika 73).

    Args:
        values: ``[n]``, finite.
        group: Number of each value's group, ``[n]``; groups are independent.

    Example:
        >>> found = mean_of(np.array([1.0, 1, 3, 3]), np.array([0, 0, 1, 1]))
        >>> found.estimate, round(found.low, 2), round(found.high, 2)  # as of the two values 1 and 3
        (2.0, -10.71, 14.71)
    """
    if not len(values):
        return _nothing()
    mean, groups = float(values.mean()), len(np.unique(group))
    if groups < 2:
        return _single(mean, len(values))
    reach = float(stats.t.ppf(0.975, groups - 1)) * float(np.sqrt(_variance(values, group)))
    return Estimate(estimate=mean, low=mean - reach, high=mean + reach, count=len(values))


def share_of(happened: NDArray[np.bool_], group: Whole) -> Estimate:
    """Share with the interval of Korn and Graubard (1998, Survey Methodology 24).

    That is the exact one of Clopper and Pearson for as many independent trials as would leave the same variance. Where
    all or none happened there is no variance to see, and every group counts as one trial.

    Args:
        happened: ``[n]``.
        group: Number of each trial's group, ``[n]``; groups are independent.

    Example:
        >>> found = share_of(np.zeros(20, dtype=bool), np.arange(20) // 2)
        >>> found.estimate, found.low, round(found.high, 3)  # none in 10 groups: 1 - 0.025^(1/10)
        (0.0, 0.0, 0.308)
    """
    if not len(happened):
        return _nothing()
    share, count, groups = float(happened.mean()), len(happened), len(np.unique(group))
    if groups < 2:
        return _single(share, count)
    variance = _variance(happened.astype(np.float64), group)
    effective: float = groups
    if variance > 0 and 0 < share < 1:
        quantiles = stats.t.ppf(0.975, count - 1) / stats.t.ppf(0.975, groups - 1)
        effective = min(count, share * (1 - share) / variance * float(quantiles) ** 2)
    low, high = proportion_confint(share * effective, effective, method="beta")
    return Estimate(estimate=share, low=float(low), high=float(high), count=count)


def _variance(values: Floats, group: Whole) -> float:
    """Variance of the mean from the sums of at least two groups."""
    sums = np.bincount(np.unique(group, return_inverse=True)[1], weights=values - values.mean())
    return float((sums**2).sum()) * len(sums) / (len(sums) - 1) / len(values) ** 2


def _nothing() -> Estimate:
    return Estimate(estimate=None, low=None, high=None, count=0, reason="no trial to take it of")


def _single(value: float, count: int) -> Estimate:
    return Estimate(estimate=value, low=None, high=None, count=count, reason="one configuration has no interval")
