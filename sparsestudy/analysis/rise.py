"""Does a series rise? A test with a stated rate of false alarms, for autocorrelated noise. ASSUMED.

Null hypothesis: the mean of the series never rises (it may fall, in any shape), and its noise is a Gaussian AR(1)
process whose autocorrelation φ lies between 0 and the largest of `PHIS`.

Statistic: the mean of the last w values against the lowest mean of w consecutive earlier ones, in standard errors, the
largest over several widths w: ``max_w (end_w - lowest_w) / (σ sqrt(2 v(w, φ)))``, where ``σ² v(w, φ)`` is the variance
of a mean of w values. A mean that falls makes every such difference smaller, so that a constant one is the worst case.
The end of the series counts: what rises and falls back has not risen.

Noise is estimated twice, and either estimate may raise the alarm:

- *rough*: σ and φ of what a least-squares line with one bend (a kink or a jump) leaves. The first fifth of the epochs
  is left out there: it moves too fast for any line. Sensitive where noise hides the rise.
- *smooth*: σ from the median of the second differences, with the largest φ. Sensitive where the series is smooth and no
  such line follows it.

Critical values: under each φ of `PHIS` series without a rise are drawn (seeded) and go through the same steps. A
measured φ is rough: it is replaced by its upper 95 % bound, in the manner of Berger and Boos (1994, Journal of the
American Statistical Association 89). The critical values of both estimates are then scaled together until no φ has
more false alarms than ``alpha``. The price: noise that may be highly correlated must be overtopped by far.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Noise: TypeAlias = tuple[Floats, Floats]
"""Standard deviation and autocorrelation, ``[n]`` each."""
Critical: TypeAlias = tuple[Noise, ...]
"""For each estimate of noise: places of φ, increasing, and critical values there, to be interpolated."""
PHIS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.9)
"""Autocorrelations for which the rate of false alarms is held."""
SHORTEST = 10
"""Fewer values than this cannot be tested."""
_UNSETTLED, _MOST_PLACES = 0.2, 64
_DRAWS, _BELIEVED = 4000, 0.05
_NORMAL_MEDIAN = 0.6744897501960817
_NO_TABLE: Critical = ((np.array([0.0]), np.array([1.0])),) * 2
_ROUNDING = 1e-12


def rises(series: Floats, alpha: float = 0.05) -> tuple[Mask, Floats, Floats]:
    """Test complete series of equal length.

    Args:
        series: ``[n, E]`` without NaN, E at least `SHORTEST`, each scaled by `unit`.
        alpha: Share of series without a rise that raise an alarm, at most.

    Returns:
        Whether each rises ``[n]``; σ and φ of its noise by the estimate that says so.

    Example:
        >>> noise = np.random.default_rng(1).standard_normal(50)
        >>> climb = np.maximum(np.arange(50) - 25, 0)
        >>> rises(unit(np.stack([noise, noise + climb, noise - climb])))[0].tolist()
        [False, True, False]
    """
    shares, noises = _shares(series, _critical(series.shape[1], alpha))
    deciding, rows = shares.argmax(axis=0), np.arange(len(series))
    sigma, phi = (np.stack(values)[deciding, rows] for values in zip(*noises, strict=True))
    return shares[deciding, rows] > 1, sigma, phi


def unit(series: Floats) -> Floats:
    """Each series shifted and scaled into [-2, 2], which changes no statistic, so that no square overflows."""
    scale = np.abs(series).max(axis=1, keepdims=True)
    scaled: Floats = series / np.where(scale > 0, scale, 1.0)
    scaled -= scaled.mean(axis=1, keepdims=True)
    return scaled


def variance_of_mean(width: int, phi: Floats) -> Floats:
    """Variance of the mean of ``width`` values of an AR(1) process of variance 1; φ is held within `PHIS`.

    Example:
        >>> [float(v) for v in variance_of_mean(2, np.array([0.0, 0.5]))]  # (1 + φ) / 2
        [0.5, 0.75]
    """
    phi = np.clip(phi, PHIS[0], PHIS[-1])
    return ((1 + phi) / (1 - phi) - 2 * phi * (1 - phi**width) / (width * (1 - phi) ** 2)) / width


def straight(length: int) -> Floats:
    """Level and slope, orthonormal, ``[E, 2]``."""
    at = np.arange(length, dtype=np.float64)
    return np.linalg.qr(np.stack([np.ones(length), at], axis=1))[0]


def _shares(series: Floats, critical: Critical) -> tuple[Floats, list[Noise]]:
    """Statistic in units of its critical value by each estimate of noise ``[2, n]``; and the estimates."""
    noises = [_rough(series), _smooth(series)]
    widths = _widths(series.shape[1])
    differences = [_difference(series, width) for width in widths]
    shares = []
    for (sigma, phi), (places, values) in zip(noises, critical, strict=True):
        largest = np.full(len(series), -np.inf)
        for width, difference in zip(widths, differences, strict=True):
            largest = np.maximum(largest, difference / np.sqrt(2 * variance_of_mean(width, phi)))
        shares.append(largest / (sigma * np.interp(phi, places, values)))
    return np.stack(shares), noises


def _widths(length: int) -> list[int]:
    """Widths of windows, from 3 to a third of the series, each about 1.6 times the one before."""
    widths = [3]
    while (wider := -(-8 * widths[-1] // 5)) <= length / 3:
        widths.append(wider)
    return widths


def _difference(series: Floats, width: int) -> Floats:
    """Mean of the last values minus the lowest mean of earlier ones, ``[n]``."""
    total = np.concatenate([np.zeros((len(series), 1)), series.cumsum(axis=1)], axis=1)
    means = (total[:, width:] - total[:, :-width]) / width
    difference: Floats = means[:, -1] - means[:, :-width].min(axis=1)
    return difference


def _rough(series: Floats) -> Noise:
    """Of what a line with one bend leaves."""
    series = series[:, int(_UNSETTLED * series.shape[1]) :]
    length = series.shape[1]
    line, bends = _curve(length)
    rest = series - (series @ line) @ line.T
    weights = rest @ bends
    best = np.abs(weights).argmax(axis=1)
    rest = rest - weights[np.arange(len(series)), best, None] * bends[:, best].T
    squares = (rest**2).sum(axis=1)
    # Of series without noise rounding is left, which is given a size and no correlation.
    floor = _ROUNDING**2 * length
    phi = (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.maximum(squares, floor)
    return np.sqrt(np.maximum(squares, floor) / (length - 3)), np.where(squares > floor, phi, 0.0)


def _smooth(series: Floats) -> Noise:
    """From second differences, which are sqrt(6) times as wide as white noise."""
    typical = np.median(np.abs(np.diff(series, 2, axis=1)), axis=1)
    sigma = typical / (_NORMAL_MEDIAN * np.sqrt(6))
    return np.maximum(sigma, _ROUNDING), np.full(len(series), PHIS[-1])


@lru_cache(maxsize=256)
def _curve(length: int) -> tuple[Floats, Floats]:
    """`straight`; kinks and jumps of unit length, orthogonal to it, ``[E, K]``."""
    at, line = np.arange(length, dtype=np.float64)[:, None], straight(length)
    places = np.unique(np.linspace(2, length - 4, min(length - 5, _MOST_PLACES)).astype(np.int64))
    bends = np.concatenate([np.maximum(at - places, 0.0), np.where(at > places, 1.0, 0.0)], axis=1)
    bends -= line @ (line.T @ bends)
    return line, bends / np.linalg.norm(bends, axis=0)


@lru_cache(maxsize=1024)
def _critical(length: int, alpha: float) -> Critical:
    """Critical values for one length: drawn for lengths a tenth apart, and interpolated between them."""
    lower = upper = SHORTEST
    while upper < length:
        lower, upper = upper, -(-11 * upper // 10)
    if upper == length:
        return _drawn(length, alpha)
    part = np.log(length / lower) / np.log(upper / lower)
    tables = zip(_drawn(lower, alpha), _drawn(upper, alpha), strict=True)
    return tuple(
        ((1 - part) * places + part * more_places, (1 - part) * values + part * more_values)
        for (places, values), (more_places, more_values) in tables
    )


@lru_cache(maxsize=256)
def _drawn(length: int, alpha: float) -> Critical:
    # Less by the error of a share among so many draws, so that "at most" holds for nearly every length.
    level = 1 - max(alpha / 2, alpha - 1.6 * np.sqrt(alpha * (1 - alpha) / _DRAWS))
    random = np.random.default_rng(length)
    drawn = [unit(_without_rise(random, phi, length)) for phi in PHIS]
    plain = [_shares(series, _NO_TABLE) for series in drawn]
    tables = []
    for estimate in range(2):
        # Where `_BELIEVED` of the measured values of some φ lie below, there that φ is the upper bound.
        lower = np.maximum.accumulate([np.quantile(noises[estimate][1], _BELIEVED) for _, noises in plain])
        values = np.maximum.accumulate([np.quantile(statistic[estimate], level) for statistic, _ in plain])
        tables.append((lower - 1e-9 * np.arange(len(PHIS))[::-1], values))
    largest = [_shares(series, tuple(tables))[0].max(axis=0) for series in drawn]
    scale = max(np.quantile(shares, level) for shares in largest)
    return tuple((places, values * scale) for places, values in tables)


def _without_rise(random: np.random.Generator, phi: float, length: int) -> Floats:
    """Stationary AR(1) series of variance 1, ``[_DRAWS, length]``."""
    series = random.standard_normal((_DRAWS, length))
    series[:, 1:] *= np.sqrt(1 - phi**2)
    for t in range(1, length):
        series[:, t] += phi * series[:, t - 1]
    return series
