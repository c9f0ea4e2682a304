"""When a series begins to rise: the onset of overfitting in a validation loss, of a sparsity rise in a layer. ASSUMED.

Huesmann et al. (arXiv 2104.06153) see sparsity rise shortly before the test loss does; no rule of theirs for either
moment is public, and the ones here are ours. Whether a series rises at all is tested, with a stated rate of false
alarms, by `sparsestudy.analysis.rise`; a series that does not is *censored*. Where the rise begins:

- overfitting: at the minimum of the smoothed validation loss;
- a rise of sparsity: at the start of the last sustained one, for sparsity often falls before it climbs. Going back from
  the end, the rise lasts until the last fall that takes back at least a quarter of it (and is more than noise). From
  there to where it reaches its plateau a line with one bend, a kink or a jump, is fitted by least squares; the bend is
  the onset, unless more than 15 % of the rise came before it: then the lowest smoothed value is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sparsestudy.analysis.evidence import Array
from sparsestudy.analysis.rise import SHORTEST, Floats, Mask, Whole, rises, straight, unit, variance_of_mean

SMOOTH = 5
"""Width of the centred moving average, in measured values."""
_FALL, _EARLY, _SPAN = 0.25, 0.15, 6
_CELLS = 4_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Onsets:
    """When something began, for ``n`` series.

    Attributes:
        epoch: Epoch of the onset, from 0. Where it is censored, the last measured epoch c, which says that the onset is
            at c or later: what begins in the last epoch cannot be seen to begin. -1 where fewer than `SHORTEST` values
            were measured, so that nothing can be said.
        censored: Whether no onset was seen.
    """

    epoch: Whole
    censored: Mask


def overfitting_onset(validation_loss: Array, alpha: float = 0.05) -> Onsets:
    """Epoch of the minimum of the smoothed validation loss, if the loss later rises by more than its noise.

    Args:
        validation_loss: ``[n, E]`` in any unit, NaN where it was not measured.
        alpha: Share of losses that never rise and yet raise an alarm, at most.

    Returns:
        Onsets ``[n]``, censored at the last measured epoch where the loss does not end above an earlier level.

    Example:
        >>> found = overfitting_onset(np.abs(np.arange(40) - 15.0)[None])
        >>> int(found.epoch[0]), bool(found.censored[0])
        (15, False)
    """
    return _onsets(validation_loss, alpha, 0.0, lambda series, _: smoothed(series).argmin(axis=1))


def sparsity_onset(series: Array, alpha: float = 0.05, least: float = 0.01) -> Onsets:
    """Epoch at which the last sustained rise of each series begins.

    Args:
        series: ``[n, E]``, NaN where it was not measured or is undefined.
        alpha: Share of series that never rise and yet raise an alarm, at most.
        least: Rises smaller than this, in the unit of the series, count as none.

    Returns:
        Onsets ``[n]``, censored at the last measured epoch where the series does not end above an earlier level.

    Example:
        >>> epochs = np.arange(60)
        >>> falls, climbs = 0.6 - 0.004 * epochs, 0.014 * np.maximum(epochs - 20, 0)
        >>> found = sparsity_onset(np.stack([falls + climbs, falls]))
        >>> found.epoch.tolist(), found.censored.tolist()
        ([20, 59], [False, True])
    """
    return _onsets(series, alpha, least, _start)


def smoothed(series: Floats) -> Floats:
    """Centred moving average over `SMOOTH` values of complete series ``[n, E]``; at the ends the window is cut off."""
    length, half = series.shape[1], SMOOTH // 2
    total = np.concatenate([np.zeros((len(series), 1)), series.cumsum(axis=1)], axis=1)
    at = np.arange(length)
    left, right = np.maximum(at - half, 0), np.minimum(at + half + 1, length)
    mean: Floats = (total[:, right] - total[:, left]) / (right - left)
    return mean


def _onsets(series: Array, alpha: float, least: float, locate: Callable[[Floats, Floats], Whole]) -> Onsets:
    """Test and locate; series with equally many values go together, without their gaps."""
    measured = np.isfinite(series)
    counts = measured.sum(axis=1)
    last = np.where(measured, np.arange(series.shape[1]), -1).max(axis=1, initial=-1)
    epoch = np.where(counts >= SHORTEST, last, -1).astype(np.int64)
    censored = np.ones(len(series), dtype=np.bool_)
    for length in np.unique(counts[counts >= SHORTEST]):
        rows = np.flatnonzero(counts == length)
        for part in np.array_split(rows, 1 + len(rows) * int(length) // _CELLS):
            at = np.nonzero(measured[part])[1].reshape(len(part), length)
            own = np.take_along_axis(series[part], at, axis=1).astype(np.float64)
            scaled = unit(own)
            alarm, sigma, phi = rises(scaled, alpha)
            error = sigma * np.sqrt(variance_of_mean(SMOOTH, phi))
            if least > 0:
                mean = smoothed(own)
                alarm &= mean[:, -1] - mean.min(axis=1) >= least
            epoch[part[alarm]] = at[alarm, locate(scaled[alarm], error[alarm])]
            censored[part[alarm]] = False
    return Onsets(epoch=epoch, censored=censored)


def _start(series: Floats, error: Floats) -> Whole:
    """Index at which the last sustained rise of each series begins.

    Args:
        series: ``[n, E]``, all of which rise.
        error: Standard error of their smoothed values, ``[n]``.
    """
    mean, at = smoothed(series), np.arange(series.shape[1])
    fall = np.maximum(4 * error, _FALL * (mean[:, -1] - mean.min(axis=1)))[:, None]
    # Only what the end stands well above can be the foot of the rise.
    foot = np.where(mean <= np.maximum(mean[:, -1:] - fall, mean.min(axis=1, keepdims=True)), mean, np.inf)
    ahead = np.minimum.accumulate(foot[:, ::-1], axis=1)[:, ::-1]
    falls = mean > ahead + fall
    left = np.where(falls.any(axis=1), len(at) - 1 - falls[:, ::-1].argmax(axis=1), 0)
    low = np.where(at >= left[:, None], foot, np.inf).argmin(axis=1)
    # A plateau after the rise would pull the kink to itself.
    after = np.where(at >= low[:, None], mean, -np.inf)
    top = (after >= (after.max(axis=1) - 2 * error)[:, None]).argmax(axis=1)
    start: Whole = low.astype(np.int64)
    spans = top + 1 - left
    for span in np.unique(spans[spans >= _SPAN]):
        rows = np.flatnonzero(spans == span)
        part = np.take_along_axis(series[rows], left[rows, None] + np.arange(span), axis=1)
        start[rows] = left[rows] + _bend(part, low[rows] - left[rows], error[rows])
    return start


def _bend(series: Floats, low: Whole, error: Floats) -> Whole:
    """Index of the best upward bend of ``[n, E]``; ``low`` where too much of the rise came before it."""
    rows = np.arange(len(series))
    line, bends, places = _bends(series.shape[1])
    weights = series @ bends
    best = weights.argmax(axis=1)
    curve = (series @ line) @ line.T + weights[rows, best, None] * bends[:, best].T
    place = places[best]
    before = np.where(np.arange(series.shape[1]) <= place[:, None], curve, np.inf).min(axis=1)
    early = curve[rows, place] - before > np.maximum(4 * error, _EARLY * (curve[:, -1] - before))
    return np.where(early, low, place)


@lru_cache(maxsize=256)
def _bends(length: int) -> tuple[Floats, Floats, Whole]:
    """`straight`; kinks and jumps after 2, 3, … of unit length, orthogonal to it, ``[E, K]``; their places ``[K]``."""
    at, line = np.arange(length, dtype=np.float64)[:, None], straight(length)
    places = np.arange(2, length - 2)
    bends = np.concatenate([np.maximum(at - places, 0.0), np.where(at > places, 1.0, 0.0)], axis=1)
    bends -= line @ (line.T @ bends)
    return line, bends / np.linalg.norm(bends, axis=0), np.tile(places, 2)
