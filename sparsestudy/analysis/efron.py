"""How far a Cox coefficient moves when one group of runs is left out: the jackknife behind its interval.

The usual sandwich (Lin and Wei 1989, Journal of the American Statistical Association 84) takes the runs that a risk set
compares as independent of the group whose residual it squares. With a few dozen groups, each a part of every risk set,
it is too small: by a quarter in simulated studies of 30 configurations with two replicates. Leaving each group out in
turn is not (Lipsitz, Dear and Zhao 1994, Biometrics 50); one Newton step for each group stands for a new fit, after
Therneau and Grambsch (2000, Modeling Survival Data, section 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Spans (start, stop] of epochs, of one trial each, over which the covariate does not move; ``[m]`` each.

    Attributes:
        trial: Number of the trial.
        start: In epochs; the trial can have an event in later ones only.
        stop: In epochs.
        event: Whether the span ends with the event.
        covariate: Its value.
    """

    trial: Whole
    start: Whole
    stop: Whole
    event: Mask
    covariate: Floats

    def only(self, mask: Mask) -> Episodes:
        """Those of a mask ``[m]``."""
        return Episodes(
            trial=self.trial[mask], start=self.start[mask], stop=self.stop[mask], event=self.event[mask],
            covariate=self.covariate[mask],
        )  # fmt: skip


def standard_error(episodes: Episodes, stratum: Whole, group: Whole, slope: float) -> float | None:
    """Jackknife standard error of a fitted coefficient.

    Args:
        episodes: What was fitted.
        stratum: Number of each span's stratum, ``[m]``.
        group: Number of each span's group, ``[m]``; groups are independent.
        slope: The fitted coefficient.

    Returns:
        None if without some group nothing is left to compare.
    """
    group = np.unique(group, return_inverse=True)[1]
    risk, failed, count, drawn = _sums(episodes, stratum, group, slope)

    others = (sums.sum(axis=-2, keepdims=True) - sums for sums in (risk, failed, count, drawn))
    score, information = _step(*others)
    if (information <= 1e-9 * information.max(initial=0.0)).any():
        return None
    moved, groups = score / information, len(score)
    return float(np.sqrt((groups - 1) / groups * (moved**2).sum()))


def _sums(episodes: Episodes, stratum: Whole, group: Whole, slope: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Sums by group and event time.

    Returns:
        ``Σ w x^p`` of all at risk and of those with the event, for p = 0, 1, 2 and hazard w, ``[3, G, K]`` each; the
        number of events and their ``Σ x``, ``[G, K]`` each.
    """
    stratum = np.unique(stratum, return_inverse=True)[1]
    wide = int(episodes.stop.max()) + 1
    # One number for a stratum and an epoch, so that event times are sorted by both.
    at = stratum * wide + episodes.stop
    times = np.unique(at[episodes.event])
    enters = np.searchsorted(times, stratum * wide + episodes.start, side="right")
    leaves = np.searchsorted(times, at, side="right")
    shape = (3, int(group.max()) + 1, len(times) + 1)
    weight = np.exp(np.minimum(slope * episodes.covariate, 500.0))
    powers = weight * episodes.covariate ** np.arange(3)[:, None]
    entering, failed, count, drawn = np.zeros(shape), np.zeros(shape), np.zeros(shape[1:]), np.zeros(shape[1:])
    failing = (group[episodes.event], leaves[episodes.event] - 1)
    for power in range(3):
        np.add.at(entering[power], (group, enters), powers[power])
        np.add.at(entering[power], (group, leaves), -powers[power])
        np.add.at(failed[power], failing, powers[power][episodes.event])
    np.add.at(count, failing, 1.0)
    np.add.at(drawn, failing, episodes.covariate[episodes.event])
    risk = np.cumsum(entering, axis=-1)
    return risk[..., :-1], failed[..., :-1], count[..., :-1], drawn[..., :-1]


def _step(risk: Floats, failed: Floats, count: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Score and information ``[G]`` of Efron's partial likelihood from sums ``[G, K]``."""
    score, information = drawn.sum(axis=-1), np.zeros(len(drawn))
    for turn in range(int(count.max(initial=0.0))):
        tied = turn < count
        part = turn / np.where(tied, count, 1.0)
        zero, one, two = risk - part * failed
        zero = np.where(tied, np.maximum(zero, 1e-300), 1.0)
        mean = one / zero
        score -= np.where(tied, mean, 0.0).sum(axis=-1)
        information += np.where(tied, two / zero - mean**2, 0.0).sum(axis=-1)
    return score, information
