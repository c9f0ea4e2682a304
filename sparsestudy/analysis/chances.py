"""How sure a choice among a few noisy means is: a bound on one of them, and the probability that one is the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats: TypeAlias = NDArray[np.float64]
DRAWS = 10_000
_SHARES = np.sin(np.pi * (np.arange(2000) + 0.5) / 4000) ** 2
"""Shares in (0, 1), as dense as ``b^(-1/2) (1-b)^(-1/2)``: both ends of what `_shares` draws from are steep."""


def lower_bound(scores: Floats) -> float | None:
    """One-sided 95 % lower bound of the mean (Student's t), None with fewer than two scores.

    Example:
        >>> round(lower_bound(np.array([0.8, 0.9, 1.0])), 4)  # 0.9 - 2.92 * 0.1 / sqrt(3)
        0.7314
    """
    if len(scores) < 2:
        return None
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return float(scores.mean()) - float(stats.t.ppf(0.95, len(scores) - 1)) * error


def probability_best(scores: Sequence[Floats], seed: int = 0) -> list[float] | None:
    """Probability that each of a few has the largest expected score.

    The variance of scores is pooled over all: with a handful of seeds each, a variance of one's own says next to
    nothing. Whoever leads does so by luck, too, so expected scores are taken to scatter around their common mean with a
    standard deviation that the scores themselves have to tell: flat in its ratio to the standard deviation of scores,
    in the mean, and in the logarithm of the variance of scores. That needs three; two are compared by Student's t
    alone, under flat priors of both.

    Without any variance the means alone decide; equal means share.

    Source: the normal hierarchical model flat in the standard deviation between groups: Rubin 1981; Gelman 2006
    (Bayesian Analysis 1(3)), who recommends it from three groups on. There the variance of scores is known; to
    integrate it out, and to measure the other in units of it, is DERIVED.

    Args:
        scores: Of each, equally many.
        seed: Of the draws.

    Returns:
        One probability each; None with a single score each, which says nothing of the variance.
    """
    table = np.array(scores, dtype=float)
    count, seeds = table.shape
    means = table.mean(axis=1)
    squares, freedom = float(((table - means[:, None]) ** 2).sum()), count * (seeds - 1)
    if freedom < 1 and count > 1:
        return None
    best = means == means.max()
    if squares <= 0 or count == 1:
        return [float(v) for v in best / best.sum()]
    random = np.random.default_rng(seed)
    between = seeds * float(((means - means.mean()) ** 2).sum())
    noise = np.zeros(DRAWS)
    if count > 2:
        noise = _shares(between, squares, count, freedom, random)
        squares, freedom = squares + noise * between, freedom + count - 1
    # Given its share, noise has the variance that both sums of squares tell of; and the means shrink towards each other
    # by that share. Their spread around that is the same for all and can be divided out of who is largest.
    deviation = np.sqrt(squares / random.chisquare(freedom, size=DRAWS) / seeds)
    drawn = np.sqrt(1 - noise)[:, None] * means + deviation[:, None] * random.standard_normal((DRAWS, count))
    return [float(v) for v in np.bincount(drawn.argmax(axis=1), minlength=count) / DRAWS]


def _shares(between: float, within: float, count: int, freedom: int, random: np.random.Generator) -> Floats:
    """Draws of the share b = noise / (noise + spread), of the variance of an observed mean.

    Given b, the sums of squares between and within have density ``b^((count-1)/2) (within + b between)^(-m/2)``, m all
    their degrees of freedom. A flat standard deviation of the spread is ``b^(-3/2) (1-b)^(-1/2)`` in b, which is
    ``1/b`` beside the density of the points in `_SHARES`.
    """
    density = (count - 3) / 2 * np.log(_SHARES) - (freedom + count - 1) / 2 * np.log(within + _SHARES * between)
    weights = np.exp(density - density.max())
    return random.choice(_SHARES, size=DRAWS, p=weights / weights.sum())
