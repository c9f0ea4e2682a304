"""The distribution of whole numbers of which some are only known to lie below or above a place.

Kaplan and Meier's estimator serves values censored on one side; with both sides Turnbull (1974, Journal of the American
Statistical Association 69) iterates Efron's self-consistency: every censored value is shared among the places where it
may lie, in proportion to what the estimate holds there, until nothing moves. Censored on the right only, that is the
estimator of Kaplan and Meier. It assumes that where a value was censored says nothing about the value.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def shares(
    exact: Floats,
    below: Floats,
    above: Floats,
    *,
    start: Floats | None = None,
    tolerance: float = 1e-9,
    rounds: int = 5000,
) -> Floats:
    """Estimated share of values at each of M consecutive places, for B samples at once.

    Args:
        exact: How many values were seen at each place, ``[B, M]``. The first and last place stand for everything
            outside; nothing is seen there.
        below: How many are only known to lie below each place.
        above: How many are only known to lie above each place.
        start: Positive shares ``[M]`` to begin with, such as those of a like sample; default: all alike.
        tolerance: Largest change of a share at which the iteration ends.
        rounds: Iterations at most.

    Returns:
        ``[B, M]``, rows sum to 1; rows without any value are 0.

    Example:
        >>> none = np.zeros((1, 5))
        >>> exact = np.array([[0.0, 1, 0, 1, 0]])
        >>> shares(exact, none, np.array([[0.0, 2, 0, 0, 0]])).round(3)  # two lie above the first seen value
        array([[0.  , 0.25, 0.  , 0.75, 0.  ]])
    """
    total = (exact + below + above).sum(axis=1, keepdims=True)
    share = np.where(total > 0, np.full(exact.shape, 1 / exact.shape[1]) if start is None else start, 0.0)
    total = np.where(total > 0, total, 1.0)
    for _ in range(rounds):
        before = np.cumsum(share, axis=1) - share
        after = np.cumsum(share[:, ::-1], axis=1)[:, ::-1] - share
        up = np.cumsum(_divided(above, after), axis=1)
        down = np.cumsum(_divided(below, before)[:, ::-1], axis=1)[:, ::-1]
        # A place gets its part of the values known to lie above an earlier or below a later one.
        up = np.concatenate([np.zeros_like(up[:, :1]), up[:, :-1]], axis=1)
        down = np.concatenate([down[:, 1:], np.zeros_like(down[:, :1])], axis=1)
        new = (exact + share * (up + down)) / total
        moved = np.abs(new - share).max(initial=0.0)
        share = new
        if moved < tolerance:
            break
    return share


def _divided(count: Floats, share: Floats) -> Floats:
    return np.where(count > 0, count / np.maximum(share, 1e-300), 0.0)


def quantile(share: Floats, first: int, part: float) -> Floats:
    """Where the shares below reach ``part``, spread evenly over half a step to each side of every place.

    Args:
        share: Of `shares`, ``[B, M]``.
        first: The first place.
        part: In (0, 1).

    Returns:
        ``[B]``; minus or plus infinity where it lies outside all places, NaN for rows without values.

    Example:
        >>> quantile(np.array([[0.0, 0.25, 0.75, 0.0]]), 3, 0.5)
        array([4.83333333])
    """
    below = np.cumsum(share, axis=1)
    at = np.minimum((below < part - 1e-9).sum(axis=1), share.shape[1] - 1)
    rows = np.arange(len(share))
    held = share[rows, at]
    inside = first + at + 0.5 - (below[rows, at] - part) / np.where(held > 0, held, 1.0)
    found = np.where(at == 0, -np.inf, np.where(at == share.shape[1] - 1, np.inf, inside))
    return np.where(share.sum(axis=1) > 0, found, np.nan)
