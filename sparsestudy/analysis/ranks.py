"""Do trials with more of a measure have the larger gap? Rank correlations of every signal with the gap.

Kendall's τ-b (Kendall 1945, Biometrika 33) and Spearman's ρ (1904) over all trials. They ask for no straight line, but
nor do they hold anything fixed: arms and hyperparameters may bring both about. `sparsestudy.analysis.granulated` and
`sparsestudy.analysis.robust` hold something fixed. Trials stopped early are left out in all three: gaps grow with
training, and so does much of what is measured, so that the length of training alone would relate them.

Intervals and p-values leave out one configuration at a time, arm by arm (`sparsestudy.analysis.jackknife`). Up to
`EXACT` trials that is exact. Beyond, leaving out is replaced by its first-order approximation, the influence of each
configuration (the infinitesimal jackknife, Jaeckel 1972; the influence of a pair statistic is Hoeffding's projection,
1948, Annals of Mathematical Statistics 19), on ranks coarsened to `BINS`, which makes 10,000 trials a matter of
milliseconds; the correlations themselves are never approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.corrections import benjamini_hochberg, select
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Array, Evidence, Signal
from sparsestudy.analysis.jackknife import jackknife, numbered
from sparsestudy.analysis.sample import full_length

Moment: TypeAlias = Literal["last", "best"]
MOMENTS: tuple[Moment, ...] = ("last", "best")
EXACT = 500
BINS = 500


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """How one signal goes with the gap over all trials.

    Attributes:
        kind, layer, measure: The signal.
        at: Whether it is taken at the trial's ``last`` epoch or at its ``best``, that of the lowest validation loss.
            The gap is that of the last epoch in both cases.
        trials, configurations: With both the signal and a gap.
        kendall: τ-b, in [-1, 1]; above 0 where more of the measure goes with a larger gap.
        spearman: ρ, in [-1, 1].
        adjusted: Kendall's p-value after Benjamini and Hochberg over all signals and both moments; None without one.
        discovered: Whether it is at most the rate of false discoveries asked for.
    """

    kind: str
    layer: str
    measure: str
    at: Moment
    trials: int
    configurations: int
    kendall: Estimate
    spearman: Estimate
    adjusted: float | None = None
    discovered: bool = False


def rank_correlations(
    evidence: Evidence, of: Literal["loss", "accuracy"] = "loss", alpha: float = 0.05
) -> tuple[RankCorrelation, ...]:
    """Rank correlation of every signal with the gap, at the last and at the best epoch.

    Args:
        evidence: Any number of trials; those stopped early are left out.
        of: The gap in loss or in accuracy.
        alpha: Rate of false discoveries, in (0, 1).

    Returns:
        One row per signal and moment, in the order of the signals.
    """
    evidence = select(evidence, full_length(evidence))
    gap = evidence.gap(of)
    rows = [_row(signal, moment, values, gap, evidence.trials) for signal, moment, values in signals_at(evidence)]
    corrected = benjamini_hochberg([row.kendall.p for row in rows], alpha)
    found = zip(rows, corrected.adjusted, corrected.rejected, strict=True)
    return tuple(replace(row, adjusted=p, discovered=discovered) for row, p, discovered in found)


def _row(signal: Signal, moment: Moment, values: Array, gap: Array, trials: pd.DataFrame) -> RankCorrelation:
    usable = np.isfinite(values) & np.isfinite(gap)
    clusters = numbered(trials["configuration"].to_numpy()[usable])
    arms = pd.factorize(trials["arm"])[0][usable]
    kendall, spearman = correlate(values[usable], gap[usable], clusters, arms)
    return RankCorrelation(
        kind=signal.kind,
        layer=signal.layer,
        measure=signal.measure,
        at=moment,
        trials=int(usable.sum()),
        configurations=int(clusters.max(initial=-1)) + 1,
        kendall=kendall,
        spearman=spearman,
    )


def signal_at(evidence: Evidence, signal: Signal, moment: Moment) -> Array:
    """Values of a signal ``[n]`` at a moment of each trial, as last measured by then; NaN where it was undefined.

    Where nothing was measured by then, the first measurement after stands in, as in the headlines of a trial.
    """
    rows = np.arange(len(evidence))
    return np.asarray(evidence.series(signal)[rows, _epoch_of(evidence, moment)], dtype=np.float64)


def signals_at(evidence: Evidence) -> Iterator[tuple[Signal, Moment, Array]]:
    """`signal_at` of every signal and moment, with one look at what was measured when."""
    at, rows = {moment: _epoch_of(evidence, moment) for moment in MOMENTS}, np.arange(len(evidence))
    for column, signal in enumerate(evidence.signals):
        for moment in MOMENTS:
            yield signal, moment, np.asarray(evidence.values[rows, at[moment], column], dtype=np.float64)


def _epoch_of(evidence: Evidence, moment: Moment) -> NDArray[np.int64]:
    """Epoch of each trial whose measurement is taken, ``[n]``."""
    if not len(evidence):
        return np.empty(0, dtype=np.int64)
    ends = evidence.trials["epochs"].to_numpy() - 1
    if moment == "best":
        loss = evidence.curves["validation/loss"]
        at = np.argmin(np.where(np.isnan(loss), np.inf, loss), axis=1)
    else:
        at = ends
    # An undefined value was measured too: the layer is dead, and what it was before is not what it is.
    measured = ~np.isnan(evidence.values).all(axis=2)
    latest = np.maximum.accumulate(np.where(measured, np.arange(measured.shape[1]), -1), axis=1)
    chosen = latest[np.arange(len(evidence)), at]
    return np.asarray(np.where(chosen < 0, measured.argmax(axis=1), chosen), dtype=np.int64)


def correlate(
    x: Array, y: Array, clusters: NDArray[np.int64], arms: NDArray[np.int64] | None = None
) -> tuple[Estimate, Estimate]:
    """Kendall's τ-b and Spearman's ρ with intervals by configuration.

    Args:
        x: Finite values ``[n]``.
        y: Finite values ``[n]``.
        clusters: Configuration of each, numbered from 0 without gaps.
        arms: Arm of each, if the study sets how many configurations an arm gets.
    """
    if len(x) < 2:
        return (Estimate(reason="fewer than two trials"),) * 2
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return (Estimate(reason="undefined: one of the two does not vary"),) * 2
    tau, rho = float(stats.kendalltau(x, y).statistic), float(stats.spearmanr(x, y).statistic)
    leave = _left_out if len(x) <= EXACT else _influence
    taus, rhos = leave(x, y, clusters)
    strata = None if arms is None else numbered(arms[np.unique(clusters, return_index=True)[1]])
    return jackknife(tau, taus, strata=strata), jackknife(rho, rhos, strata=strata)


def _left_out(x: Array, y: Array, clusters: NDArray[np.int64]) -> tuple[Array, Array]:
    """τ-b and ρ without each configuration, ``[C]`` each; NaN where one of the two no longer varies."""
    of = np.eye(int(clusters.max()) + 1)[clusters]
    signs = [np.sign(v[:, None] - v[None, :]) for v in (x, y)]
    agree, differ_x, differ_y = (_sums_without(pairs, of) for pairs in (signs[0] * signs[1], *map(np.abs, signs)))
    # Of every trial its rank among those that are left, [C, n].
    ranks = [(0.5 * (1 + sign).sum(axis=1, keepdims=True) - 0.5 * (1 + sign) @ of).T for sign in signs]
    stay = 1.0 - of.T
    centred = [
        stay * (r - (stay * r).sum(axis=1, keepdims=True) / _floor(stay.sum(axis=1, keepdims=True))) for r in ranks
    ]
    products, squares_x, squares_y = ((centred[i] * centred[j]).sum(axis=1) for i, j in ((0, 1), (0, 0), (1, 1)))
    return _ratio(agree, differ_x, differ_y), _ratio(products, squares_x, squares_y)


def _sums_without(pairs: Array, of: Array) -> Array:
    """Sum of a symmetric ``[n, n]`` table over the pairs without each configuration, ``[C]``."""
    rows = pairs @ of
    return np.asarray(pairs.sum() - 2 * rows.sum(axis=0) + (rows * of).sum(axis=0))


def _ratio(product: Array, first: Array, second: Array) -> Array:
    scale = np.sqrt(np.maximum(first, 0) * np.maximum(second, 0))
    return np.where(scale > 1e-9, product / _floor(scale), np.nan)


def _floor(positive: Array) -> Array:
    return np.maximum(positive, 1e-9)


def _influence(x: Array, y: Array, clusters: NDArray[np.int64]) -> tuple[Array, Array]:
    """τ-b and ρ without each configuration to first order, ``[C]`` each."""
    a, b = _coarse(x), _coarse(y)
    n = len(x)
    table = np.bincount(a * BINS + b, minlength=BINS * BINS).reshape(BINS, BINS).astype(np.float64)
    agree = _signed(_signed(table, 0), 1)[a, b]
    across, down = table.sum(axis=1), table.sum(axis=0)
    differ_x, differ_y = n - across[a], n - down[b]
    totals = [float(v.sum()) for v in (agree, differ_x, differ_y)]
    scale = np.sqrt(totals[1] * totals[2])
    tau = totals[0] / scale
    of_tau = 2 * agree / scale - tau * (differ_x / totals[1] + differ_y / totals[2])

    # Midranks in [-1/2, 1/2], and what a trial adds by moving the ranks of those above it.
    u, v = -0.5 * _signed(-across, 0) / n, -0.5 * _signed(-down, 0) / n
    moved_v, moved_u = _above(table @ v), _above(u @ table)
    sd_x, sd_y = (float(across @ u**2) / n), (float(down @ v**2) / n)
    rho = float(u @ table @ v) / n / np.sqrt(sd_x * sd_y)
    of_product = u[a] * v[b] + (moved_v[a] + moved_u[b]) / n
    of_x, of_y = u[a] ** 2 + 2 * _above(across * u)[a] / n, v[b] ** 2 + 2 * _above(down * v)[b] / n
    of_rho = _centred(of_product) / np.sqrt(sd_x * sd_y) - rho / 2 * (_centred(of_x) / sd_x + _centred(of_y) / sd_y)
    # Leaving one of C out moves a mean by C / (C - 1) times its share.
    count = int(clusters.max()) + 1
    step = count / max(count - 1, 1)
    return tau - step * np.bincount(clusters, of_tau), rho - step * np.bincount(clusters, of_rho / n)


def _coarse(values: Array) -> NDArray[np.int64]:
    """Ranks as bins 0 … BINS - 1; equal values share one."""
    ranks = stats.rankdata(values, method="min") - 1
    return np.asarray(ranks * BINS // len(values), dtype=np.int64)


def _signed(table: Array, axis: int) -> Array:
    """Sum over the bins below less that over the bins above."""
    upto = np.cumsum(table, axis=axis)
    return np.asarray(2 * upto - table - np.take(upto, [-1], axis=axis))


def _above(sums: Array) -> Array:
    """Sum over the bins above, and half of the own one."""
    return np.asarray(sums.sum() - np.cumsum(sums) + 0.5 * sums)


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean())
