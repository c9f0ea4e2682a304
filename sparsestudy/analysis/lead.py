"""How long before the validation loss a layer's sparsity begins to rise, and whether it comes first at all.

The lead of a run is its overfitting onset minus its sparsity onset, in epochs; positive where sparsity came first.
Runs end: where no overfitting was seen the lead is only known to be at least what was watched, where no rise of
sparsity was seen it is known to be at most that, and where neither was seen nothing is known. (What begins in the last
epoch of a run cannot be seen to begin, so that an onset censored at epoch c is one at c or later.) The median takes
all of them (`sparsestudy.analysis.turnbull`); its interval comes from resampling whole configurations (Davison and
Hinkley 1997, Bootstrap Methods, chapter 3), since replicates of one are not independent, with percentiles expanded for
few of them (Hesterberg 2015, The American Statistician 69).

Whether sparsity comes first is asked of runs in which both onsets were seen: a run that never overfits speaks neither
for nor against "before". One configuration has one vote, the sign of the majority of its replicates.

Half of the votes is no fair share of chance. Two clocks that have nothing to do with one another can tick in a fixed
order in all runs; and onsets are estimates. The overfitting onset is the minimum of a smoothed loss, the sparsity onset
the bend of a straight line, which is carried too far back where a rise slows down: by two to three epochs where it goes
with the power 0.7 of time, while the minimum of a loss lies half an epoch early. Both move all runs alike. The votes
are therefore held against those of strangers (`sparsestudy.analysis.strangers`), whose onsets are located by the same
rules. Where the clock alone puts sparsity first in every run, no order can be more than chance; then `together` still
says whether the two onsets go with each other, and `sparsestudy.analysis.hazard` whether one brings the other.
The median lead has no such remedy: it is off by what the two rules are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.onset import Onsets
from sparsestudy.analysis.strangers import strangers, together
from sparsestudy.analysis.turnbull import quantile, shares

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
DRAWS = 1000
FEWEST = 6
"""With fewer configurations even the range of all leads covers their median in less than 95 % of studies: 1 - 2/2^n."""


@dataclass(frozen=True, kw_only=True)
class LeadTime:
    """When sparsity rises against when the loss does, in one layer.

    Attributes:
        trials: Trials of which both curves are long enough to be judged.
        first: Trials with both onsets seen, sparsity first.
        same: Trials with both onsets in the same epoch.
        after: Trials with both onsets seen, sparsity later.
        only_sparsity: Trials in which sparsity rose and no overfitting was seen.
        only_overfitting: Trials that overfitted with no rise of sparsity seen.
        neither: Trials in which neither was seen.
        votes_first: Configurations in most of whose replicates (both onsets seen) sparsity was first.
        votes_after: Configurations in most of whose replicates it was later.
        votes_even: Configurations that are undecided and have no vote.
        share: ``votes_first`` among all votes, in [0, 1].
        share_low: Its exact 95 % interval (Clopper and Pearson).
        share_high: See ``share_low``.
        by_chance: The same share where the sparsity onsets are those of another configuration; ``share`` is to be held
            against it.
        together: Rank correlation of both onsets over configurations, with its two-sided p-value by permutation.
        p_value: Two-sided permutation test of ``share`` against that of strangers.
        p_adjusted: After correction over the layers; set where layers are put together.
        p_with_censored: The same test with the order also taken as known where one onset was seen and the other was
            not up to the end of the run.
        median: Median lead in epochs.
        low: Its 95 % interval, in epochs.
        high: See ``low``.
        distribution: Estimated shares of leads: pairs of a lead in epochs and the share at or below it. What is missing
            to 1 after the last, or held before the first, lies beyond what was watched.
        reason: Why something above is None; empty if nothing is.
    """

    trials: int
    first: int
    same: int
    after: int
    only_sparsity: int
    only_overfitting: int
    neither: int
    votes_first: int
    votes_after: int
    votes_even: int
    share: float | None
    share_low: float | None
    share_high: float | None
    by_chance: float | None
    together: Estimate
    p_value: float | None
    p_adjusted: float | None
    p_with_censored: float | None
    median: float | None
    low: float | None
    high: float | None
    distribution: tuple[tuple[int, float], ...]
    reason: str


def lead_time(
    overfitting: Onsets, sparsity: Onsets, configuration: Whole, *, draws: int = DRAWS, seed: int = 0
) -> LeadTime:
    """Lead of one layer over all trials.

    Args:
        overfitting: Onsets of overfitting, ``[n]``.
        sparsity: Onsets of a rise of the layer's sparsity, ``[n]``.
        configuration: Number of each trial's configuration, ``[n]``.
        draws: Resamples behind the interval.
        seed: Of the resampling.

    Example:
        >>> late = Onsets(epoch=np.array([20, 24, 22, 30, 28, 21, 39]), censored=np.arange(7) == 6)
        >>> early = Onsets(epoch=np.array([15, 19, 18, 25, 22, 16, 30]), censored=np.zeros(7, dtype=bool))
        >>> found = lead_time(late, early, np.arange(7))
        >>> found.first, found.only_sparsity, round(found.p_value, 1), round(found.median, 2)
        (6, 1, 0.1, 5.12)
    """
    known = (overfitting.epoch >= 0) & (sparsity.epoch >= 0)
    group = np.unique(configuration[known], return_inverse=True)[1]
    late, early = overfitting.epoch[known], sparsity.epoch[known]
    late_open, early_open = overfitting.censored[known], sparsity.censored[known]
    both, lead = ~late_open & ~early_open, late - early
    votes = _votes(np.sign(lead)[both], group[both])
    share, share_low, share_high = _share_of(votes)
    dealt = ((late, late_open), (early, early_open), group)
    seen, all_known = (strangers(*dealt, both=only, seed=seed) for only in (True, False))
    median, low, high, distribution, why = _distribution(lead, late_open, early_open, group, draws, seed)
    no_vote = "no configuration has a vote on which comes first" if share is None else ""
    alone = "there are no strangers to hold the order against" if share is not None and seen.p is None else ""
    return LeadTime(
        trials=len(lead), first=int((lead[both] > 0).sum()), same=int((lead[both] == 0).sum()),
        after=int((lead[both] < 0).sum()), only_sparsity=int((late_open & ~early_open).sum()),
        only_overfitting=int((~late_open & early_open).sum()), neither=int((late_open & early_open).sum()),
        votes_first=votes[0], votes_after=votes[1], votes_even=votes[2],
        share=share, share_low=share_low, share_high=share_high, by_chance=seen.share,
        together=together(late[both], early[both], group[both], seed=seed),
        p_value=seen.p, p_adjusted=None, p_with_censored=all_known.p,
        median=median, low=low, high=high, distribution=distribution,
        reason="; ".join(part for part in (no_vote, alone, why) if part),
    )  # fmt: skip


def _votes(sign: Whole, group: Whole) -> tuple[int, int, int]:
    """How many groups vote for, against and not at all, by the sum of their signs."""
    sums = np.bincount(group, weights=sign)[np.bincount(group) > 0]
    return int((sums > 0).sum()), int((sums < 0).sum()), int((sums == 0).sum())


def _share_of(votes: tuple[int, int, int]) -> tuple[float | None, float | None, float | None]:
    """Share of votes for, and its interval."""
    count = votes[0] + votes[1]
    if not count:
        return None, None, None
    interval = stats.binomtest(votes[0], count).proportion_ci()
    return votes[0] / count, float(interval.low), float(interval.high)


def _distribution(
    lead: Whole, late_open: Mask, early_open: Mask, group: Whole, draws: int, seed: int
) -> tuple[float | None, float | None, float | None, tuple[tuple[int, float], ...], str]:
    """Median lead, its interval, the distribution, and what could not be said."""
    told = ~(late_open & early_open)
    if not told.any():
        return None, None, None, (), "no onset was seen in any trial"
    lead, late_open, early_open = lead[told], late_open[told], early_open[told]
    group = np.unique(group[told], return_inverse=True)[1]
    kind = np.where(early_open, 1, np.where(late_open, 2, 0))
    # Open leads are at least, or at most, what was watched: above the place before it, or below the place after.
    place = lead + early_open - late_open
    first, groups = int(place.min()) - 1, int(group.max()) + 1
    table = np.zeros((groups, 3, int(place.max()) - first + 2), dtype=np.float32)
    np.add.at(table, (group, kind, place - first), 1)
    estimate = shares(*_kinds(table.sum(axis=0, dtype=np.float64)[None]))
    median, reason = _stated(quantile(estimate, first, 0.5)[0], "the median lead lies")
    below = np.cumsum(estimate[0])[:-1]
    steps = tuple((first + i, float(below[i])) for i in range(1, len(below)) if estimate[0, i] > 1e-6)
    if groups < FEWEST:
        few = f"no interval of the median from {groups} configurations, {FEWEST} are needed"
        return median, None, None, steps, "; ".join(part for part in (reason, few) if part)
    low, high, why = _bounds(table, estimate[0], first, draws, seed)
    return median, low, high, steps, "; ".join(part for part in (reason, why) if part)


def _bounds(
    table: NDArray[np.float32], estimate: Floats, first: int, draws: int, seed: int
) -> tuple[float | None, float | None, str]:
    """Interval of the median from resampled groups ``[G, 3, M]``, and what could not be said."""
    groups = len(table)
    picked = np.random.default_rng(seed).integers(groups, size=(draws, groups))
    weights = np.stack([np.bincount(row, minlength=groups) for row in picked]).astype(np.float32)
    drawn = (weights @ table.reshape(groups, -1)).reshape(draws, *table.shape[1:])
    # A resample may hold something where the sample holds nothing, so that no place starts with nothing.
    start = 0.9 * estimate + 0.1 / len(estimate)
    resampled = shares(*_kinds(drawn.astype(np.float64)), start=start, tolerance=1e-3, rounds=200)
    medians = np.sort(quantile(resampled, first, 0.5))
    # Few groups resampled vary less than new ones would: the percentiles lie where Student's t would put them.
    tail = stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1))
    low, low_reason = _stated(medians[int(tail * draws)], "its lower bound lies")
    high, high_reason = _stated(medians[-1 - int(tail * draws)], "its upper bound lies")
    return low, high, "; ".join(part for part in (low_reason, high_reason) if part)


def _kinds(table: Floats) -> tuple[Floats, Floats, Floats]:
    """``[B, 3, M]`` as what was seen exactly, what lies below, what lies above."""
    return table[:, 0], table[:, 1], table[:, 2]


def _stated(value: Any, what: str) -> tuple[float | None, str]:
    """A number, or None and the words for an infinite one."""
    if np.isfinite(value):
        return float(value), ""
    return None, f"{what} {'above' if value > 0 else 'below'} all leads that were watched"
