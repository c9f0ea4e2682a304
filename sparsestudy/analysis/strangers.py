"""In which order the onsets of different configurations come: what the clock alone makes of "first".

Both onsets of a run are estimates, by different rules, and lie early or late by an epoch or two as the shape of the
curve has it; and both have their place in a training run. So "sparsity first in more than half of the runs" says
little. Here the sparsity onsets of whole configurations are dealt out anew among the overfitting onsets, which keeps
how either is distributed and how either is located, and takes away that they belong together: a permutation test
(Fisher 1935, The Design of Experiments; Phipson and Smyth 2010, Statistical Applications in Genetics 9, for the
p-value). It is exact if under the null hypothesis any configuration's onsets might have met any other's. ASSUMED: that
they might; where runs are stopped at different epochs it holds about (`tests/benchmarks/coverage.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.estimate import Estimate

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Order: TypeAlias = tuple[Whole, Mask]
"""Epochs and whether they are open ends: no onset up to there."""
DRAWS = 1999
"""Permutations; the smallest p-value is 0.001, so that one layer of 40 can stand out after correction."""
_CELLS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Strangers:
    """What permuted configurations show.

    Attributes:
        share: Mean share of "first" among the votes; None if no two configurations can be compared.
        p: Two-sided p-value of the share among the configurations' own votes.
    """

    share: float | None = None
    p: float | None = None


def signs(late: Order, early: Order, *, both: bool) -> Whole:
    """1 where the first began after the second, -1 where before, 0 where neither is known, ``[..., n]``.

    Args:
        late: Of overfitting.
        early: Of the rise of sparsity.
        both: Whether only onsets that were both seen count; else one that began before the other's open end is first.

    Example:
        >>> late = np.array([9, 9, 9]), np.array([False, True, False])
        >>> early = np.array([4, 4, 9]), np.zeros(3, dtype=bool)
        >>> signs(late, early, both=True).tolist(), signs(late, early, both=False).tolist()
        ([1, 0, 0], [1, 1, 0])
    """
    (end, end_open), (start, start_open) = late, early
    order = np.sign(end - start)
    # An open end lies at its epoch or later: it is no earlier than what began before it, and nothing else is known.
    known = ~end_open & ~start_open
    if not both:
        known |= (end_open & ~start_open & (order > 0)) | (start_open & ~end_open & (order < 0))
    found: Whole = np.where(known, order, 0).astype(np.int64)
    return found


def strangers(late: Order, early: Order, group: Whole, *, both: bool, draws: int = DRAWS, seed: int = 0) -> Strangers:
    """Votes of configurations whose sparsity onsets are those of another.

    The r-th replicate of one meets the r-th of the other; what has no counterpart has no vote.

    Args:
        late: Onsets of overfitting, ``[n]``.
        early: Onsets of the rise of sparsity, ``[n]``.
        group: Configuration of each trial, numbered from 0 without gaps, ``[n]``.
        both: As in `signs`.
        draws: Permutations.
        seed: Of the permutations.
    """
    order = np.argsort(group, kind="stable")
    late, early = tuple(v[order] for v in late), tuple(v[order] for v in early)  # type: ignore[assignment]
    sizes = np.bincount(group)
    if len(sizes) < 2:
        return Strangers()
    own = _share(np.add.reduceat(signs(late, early, both=both), np.cumsum(sizes) - sizes)[None])
    random, shares = np.random.default_rng(seed), []
    for part in np.array_split(np.arange(draws), 1 + draws * len(group) // _CELLS):
        dealt = random.permuted(np.tile(np.arange(len(sizes)), (len(part), 1)), axis=1)
        shares.append(_share(_votes(late, early, sizes, dealt, both)))
    found = np.concatenate(shares)
    found = found[np.isfinite(found)]
    if not len(found) or not np.isfinite(own[0]):
        return Strangers(share=float(found.mean()) if len(found) else None)
    tails = [(1 + int((found >= own - 1e-9).sum())), (1 + int((found <= own + 1e-9).sum()))]
    return Strangers(share=float(found.mean()), p=min(1.0, 2 * min(tails) / (len(found) + 1)))


def _votes(late: Order, early: Order, sizes: Whole, dealt: Whole, both: bool) -> Whole:
    """Sum of signs of each configuration with the sparsity onsets of the one dealt to it, ``[draws, groups]``."""
    starts, of = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    replicate = np.arange(len(of)) - starts[of]
    other = dealt[:, of]
    met = replicate < sizes[other]
    place = np.where(met, starts[other] + replicate, 0)
    found = np.where(met, signs(late, (early[0][place], early[1][place]), both=both), 0)
    sums: Whole = np.add.reduceat(found, starts, axis=1)
    return sums


def _share(sums: Whole) -> Floats:
    """Share of "first" among those that are not even, ``[draws]``; NaN without any."""
    first, after = (sums > 0).sum(axis=-1), (sums < 0).sum(axis=-1)
    votes = first + after
    return np.where(votes > 0, first / np.maximum(votes, 1), np.nan)


def together(late: Whole, early: Whole, group: Whole, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Spearman's rank correlation over configurations of their mean onsets, with its p-value by permutation.

    Args:
        late: Onsets of overfitting that were seen, ``[n]``.
        early: Onsets of the rise of sparsity in the same trials, ``[n]``.
        group: Configuration of each trial, ``[n]``.
        draws: Permutations.
        seed: Of the permutations.

    Example:
        >>> found = together(np.arange(8), 2 * np.arange(8), np.arange(8))
        >>> round(found.estimate, 3), found.p < 0.01
        (1.0, True)
    """
    numbers = np.unique(group, return_inverse=True)[1]
    sizes = np.maximum(np.bincount(numbers), 1)
    ranks = [stats.rankdata(np.bincount(numbers, values) / sizes) for values in (late, early)] if len(group) else []
    if not ranks or min(float(np.ptp(r)) for r in ranks) == 0:
        return Estimate(reason="the onsets of fewer than two configurations differ")
    first, second = (r - r.mean() for r in ranks)
    own = float(first @ second)
    random, count = np.random.default_rng(seed), 0
    tolerance = 1e-9 * abs(own)
    for part in np.array_split(np.arange(draws), 1 + draws * len(first) // _CELLS):
        dealt = random.permuted(np.tile(second, (len(part), 1)), axis=1)
        count += int((np.abs(dealt @ first) >= abs(own) - tolerance).sum())
    size = float(np.sqrt((first @ first) * (second @ second)))
    return Estimate(estimate=own / size, p=(1 + count) / (draws + 1))
