"""Is a run more likely to begin to overfit once its sparsity has risen? Cox regression with a covariate that moves.

Every epoch the runs that do not overfit yet are compared with each other: the hazard ratio says how much more often
those begin to that have seen their sparsity rise (or whose sparsity is 0.1 higher) than those of the same arm and the
same age that have not. Age is compared with itself, so two clocks that merely tick in the same order give a ratio of 1.

The covariate of an epoch is known before it: an alarm up to the epoch before, or the last value measured before it. An
onset located afterwards in the whole curve would not do. Cox (1972, Journal of the Royal Statistical Society B 34);
episodes with delayed entry after Andersen and Gill (1982, Annals of Statistics 10); ties after Efron (1977, Journal of
the American Statistical Association 72); the interval is that of a jackknife over configurations
(`sparsestudy.analysis.efron`) with quantiles of Student's t.

The ratio is a relation, no proof of a cause: whatever differs between the configurations of an arm acts on both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.duration.hazard_regression import PHReg

from sparsestudy.analysis.efron import Episodes, standard_error
from sparsestudy.analysis.onset import Onsets

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
UNIT = 0.1
"""Step of a level to which its hazard ratio belongs."""
FEWEST_EVENTS, FEWEST_GROUPS = 10, 10
"""Ten events are wanted for a coefficient (Peduzzi et al. 1995, Journal of Clinical Epidemiology 48)."""
LARGEST = 50.0
"""Logarithms of a hazard ratio beyond this are no numbers one could mean."""
MOST = 1000
"""Trials that are compared at most, whole configurations drawn at random; so many settle a ratio to about a fifth."""


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """How often overfitting begins, against a covariate.

    Attributes:
        covariate: In words.
        trials: Trials compared.
        events: Trials among them in which overfitting began.
        configurations: Their number.
        ratio: Hazard ratio; 1 is no relation.
        low: Its 95 % interval.
        high: See ``low``.
        p_value: Two-sided test that the ratio is 1.
        p_adjusted: After correction over the layers; set where layers are put together.
        proportional: Whether the ratio is the same in all epochs, in words (Grambsch and Therneau 1994, Biometrika 81).
        proportional_p: p value of that check, which takes trials as independent.
        reason: Why something above is None; empty if nothing is.
    """

    covariate: str
    trials: int
    events: int
    configurations: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    proportional: str = ""
    proportional_p: float | None = None
    reason: str = ""


def hazard_of_rise(overfitting: Onsets, rise: Onsets, configuration: Whole, arm: Whole) -> Hazard:
    """Hazard ratio of overfitting after a rise of sparsity against before.

    Args:
        overfitting: Onsets of overfitting, ``[n]``.
        rise: When the rise was known, such as by `sparsestudy.analysis.alarms.rise_alarm`; ``[n]``.
        configuration: Number of each trial's configuration; trials of one may depend on each other.
        arm: Number of each trial's arm; trials are compared within arms.
    """
    told = (overfitting.epoch >= 0) & (rise.epoch >= 0)
    trial = _some(np.flatnonzero(told), configuration)
    event = ~overfitting.censored[trial]
    # What begins in its last epoch cannot be seen to begin: a run without an onset was watched up to the one before.
    end = overfitting.epoch[trial] + event
    risen = rise.epoch[trial] + 1
    split = ~rise.censored[trial] & (risen < end)
    first = np.where(split, risen, end)
    episodes = Episodes(
        trial=np.concatenate([trial, trial[split]]),
        start=np.concatenate([np.zeros_like(end), risen[split]]),
        stop=np.concatenate([first, end[split]]),
        event=np.concatenate([event & ~split, event[split]]),
        covariate=np.concatenate([np.zeros(len(trial)), np.ones(int(split.sum()))]),
    )
    return _cox("sparsity has risen", episodes, configuration, arm, 1.0)


def hazard_of_level(overfitting: Onsets, level: Floats, configuration: Whole, arm: Whole) -> Hazard:
    """Hazard ratio of overfitting for `UNIT` more of a level.

    Args:
        overfitting: Onsets of overfitting, ``[n]``.
        level: ``[n, E]``, NaN where it was not measured; the last value measured before an epoch counts there.
        configuration: As in `hazard_of_rise`.
        arm: As in `hazard_of_rise`.
    """
    trial = _some(np.flatnonzero((overfitting.epoch >= 0) & np.isfinite(level).any(axis=1)), configuration)
    event = ~overfitting.censored[trial]
    end = overfitting.epoch[trial] + event - 1
    measured, at = np.isfinite(level[trial]), np.arange(level.shape[1])
    place = np.maximum.accumulate(np.where(measured, at, -1), axis=1)
    # Epoch t > 0 is entered with what was measured up to t - 1.
    row, epoch = np.nonzero((place[:, :-1] >= 0) & (at[1:] <= end[:, None]))
    episodes = Episodes(
        trial=trial[row],
        start=epoch + 1,
        stop=epoch + 2,
        event=event[row] & (epoch + 1 == end[row]),
        covariate=level[trial[row], place[row, epoch]].astype(np.float64),
    )
    return _cox(f"{UNIT:g} more sparsity in the epoch before", episodes, configuration, arm, UNIT)


def _some(trial: Whole, configuration: Whole) -> Whole:
    """The trials of as many whole configurations, drawn with a fixed seed, as `MOST` allows."""
    if len(trial) <= MOST:
        return trial
    found = np.random.default_rng(0).permutation(np.unique(configuration[trial]))
    order = np.argsort(found)
    turn = order[np.searchsorted(found[order], configuration[trial])]
    last = np.sort(turn)[MOST - 1]
    kept: Whole = trial[turn <= last]
    return kept


def _cox(words: str, episodes: Episodes, configuration: Whole, arm: Whole, unit: float) -> Hazard:
    """Fit, or say why not."""
    told: dict[str, Any] = {
        "covariate": words,
        "trials": len(np.unique(episodes.trial)),
        "events": int(episodes.event.sum()),
        "configurations": len(np.unique(configuration[episodes.trial])),
    }
    episodes, reason = _informative(episodes, arm)
    events = int(episodes.event.sum())
    if not reason and events < FEWEST_EVENTS:
        reason = f"{events} onsets of overfitting among runs that can be compared, {FEWEST_EVENTS} are needed"
    if reason:
        return Hazard(**told, reason=reason)
    # In units of its spread the search for the maximum is well scaled, and so are exponentials.
    spread = float(episodes.covariate.std())
    episodes = replace(episodes, covariate=(episodes.covariate - episodes.covariate.mean()) / spread)
    strata, group = arm[episodes.trial], configuration[episodes.trial]
    # statsmodels keeps who enters at t in the risk set of t; half an epoch later is the span (start, stop].
    model = PHReg(
        episodes.stop, episodes.covariate[:, None], status=episodes.event, entry=episodes.start + 0.5, strata=strata,
        ties="efron",
    )  # fmt: skip
    # On its way to a ratio without a finite estimate the search divides by zero.
    with np.errstate(all="ignore"):
        fit = model.fit(warn_convergence=False)
        slope, scale = float(fit.params[0]), unit / spread
        settled = np.isfinite(slope) and abs(slope * scale) <= LARGEST
        settled = settled and np.isfinite(model.score(fit.params)).all() and np.isfinite(fit.bse).all()
    if not settled:
        return Hazard(**told, reason="the fit does not settle on a finite hazard ratio")
    told |= {**_proportional(fit, episodes), "ratio": math.exp(slope * scale)}
    groups = len(np.unique(group))
    if groups < FEWEST_GROUPS:
        few = f"no interval and no test from {groups} configurations, {FEWEST_GROUPS} are needed"
        return Hazard(**told, reason=few)
    return Hazard(**told, **_interval(slope, standard_error(episodes, strata, group, slope), groups, scale))


def _interval(slope: float, error: float | None, groups: int, scale: float) -> dict[str, Any]:
    """Interval and test of a hazard ratio, or why there is none."""
    reach = 0.0 if error is None else float(stats.t.ppf(0.975, groups - 1)) * error
    if error is None or (abs(slope) + reach) * scale > LARGEST:
        return {"reason": "no interval and no test: the ratio hangs on a single configuration"}
    return {
        "low": math.exp((slope - reach) * scale),
        "high": math.exp((slope + reach) * scale),
        "p_value": float(2 * stats.t.sf(abs(slope) / error, groups - 1)),
    }


def _informative(episodes: Episodes, arm: Whole) -> tuple[Episodes, str]:
    """Episodes at risk at an event with which something can be compared, and what prevents a fit.

    The partial likelihood has no maximum where at every event those to whom it happened have the largest covariate of
    all at risk, or the smallest.
    """
    kept = np.zeros(len(episodes.trial), dtype=np.bool_)
    largest = smallest = True
    strata = arm[episodes.trial]
    for stratum in np.unique(strata[episodes.event]):
        inside = np.flatnonzero(strata == stratum)
        part = episodes.only(strata == stratum)
        for time in np.unique(part.stop[part.event]):
            at_risk = (part.start < time) & (part.stop >= time)
            values = part.covariate[at_risk]
            if values.min() == values.max():
                continue
            kept[inside[at_risk]] = True
            happened = part.covariate[part.event & (part.stop == time)]
            largest &= bool((happened == values.max()).all())
            smallest &= bool((happened == values.min()).all())
    if not episodes.event.any():
        return episodes, "no run begins to overfit"
    if not kept.any():
        return episodes, "whenever overfitting begins, all runs it could happen to are alike"
    if largest or smallest:
        side = "largest" if largest else "smallest"
        return episodes, f"overfitting only begins in runs with the {side} value: the ratio has no finite estimate"
    return episodes.only(kept), ""


def _proportional(fit: Any, episodes: Episodes) -> dict[str, Any]:
    """Schoenfeld's residuals against the rank of the epoch; their variance is taken as the same at all events."""
    residuals = np.asarray(fit.schoenfeld_residuals)[episodes.event, 0]
    rank = stats.rankdata(episodes.stop[episodes.event])
    rank -= rank.mean()
    information = -float(fit.model.hessian(fit.params)[0, 0])
    weight = information * float((rank**2).sum())
    if weight <= 0:
        return {"proportional": "all onsets fall in one epoch, so that the ratio cannot change", "proportional_p": None}
    slope = float((rank * residuals).sum())
    p = float(stats.chi2.sf(slope**2 * len(rank) / weight, 1))
    if p >= 0.05:
        return {"proportional": f"no sign that the ratio changes over the epochs (p = {p:.2g})", "proportional_p": p}
    way = "grows" if slope > 0 else "falls"
    return {"proportional": f"the ratio {way} over the epochs (p = {p:.2g}): read it as a mean", "proportional_p": p}
