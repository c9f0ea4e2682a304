"""What rank correlations say of simulated studies whose truth is known; `benchmarks/coverage.py` counts over many."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import stats

from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.granulated import Granulated, granulated
from sparsestudy.analysis.ranks import RankCorrelation, rank_correlations, signal_at
from sparsestudy.analysis.robust import sign_errors
from tests.analysis.worlds import Truth, World, simulate

LAYERS = ("conv1", "conv2", "conv3")
SINGLE = ("causal", "null", "simpson", "confounded", "heteroscedastic")
AXES = ("arm", "training.optimizer.lr", "training.batch_size")
Outcome = dict[str, bool | float | None]


@cache
def population(world: World) -> dict[tuple[Signal, str], tuple[float, float]]:
    """Kendall's τ and Spearman's ρ among 4,000 configurations of one trial each, by signal and moment."""
    evidence, _ = simulate(world, 10**6, configurations=4000, replicates=1)
    gap = evidence.gap()
    return {
        (signal, moment): (stats.kendalltau(values, gap).statistic, stats.spearmanr(values, gap).statistic)
        for signal in evidence.signals
        for moment in ("last", "best")
        for values in [signal_at(evidence, signal, moment)]
    }


def covers(found: Estimate, truth: float) -> bool | None:
    """Whether the interval holds the truth; None without an interval."""
    return None if found.low is None or found.high is None else bool(found.low <= truth <= found.high)


def correlations_run(seed: int) -> Outcome:
    """Rank correlations of 20 configurations with three replicates: coverage, false discoveries, wrong signs."""
    found: Outcome = {}
    for world in SINGLE:
        evidence, truth = simulate(world, seed)
        rows = rank_correlations(evidence)
        for row in rows:
            if row.measure != "zero_fraction" and (row.at == "last" or row.layer == "conv1"):
                name = row.layer or row.measure
                tau, rho = population(world)[(Signal(kind=row.kind, layer=row.layer, measure=row.measure), row.at)]
                found[f"{world}: Kendall of {name} at the {row.at} epoch: covers"] = covers(row.kendall, tau)
                found[f"{world}: Spearman of {name} at the {row.at} epoch: covers"] = covers(row.spearman, rho)
        found |= _discoveries(world, rows, truth)
    return found


def stopped_run(seed: int) -> Outcome:
    """Rank correlations where four in five of 200 trials are stopped early at random and nothing relates."""
    evidence, _ = simulate("censored", seed, configurations=40, replicates=5)
    rows = rank_correlations(evidence)
    return {
        "censored: any of 14 rank correlations, corrected: false positive": any(row.discovered for row in rows),
        "censored: Kendall of conv1 at the last epoch: covers": covers(rows[0].kendall, 0.0),
        "censored: Spearman of conv1 at the last epoch: covers": covers(rows[0].spearman, 0.0),
    }


def _discoveries(world: World, rows: tuple[RankCorrelation, ...], truth: Truth) -> Outcome:
    discovered = [row for row in rows if row.discovered]
    related = {(s.kind, s.layer, s.measure) for s in truth.related}
    false = [row for row in discovered if (row.kind, row.layer, row.measure) not in related]
    if world == "null":
        return {"null: any of 14 rank correlations, corrected: false positive": bool(discovered)}
    found: Outcome = {
        f"{world}: rank correlations discovered, corrected: false discoveries": len(false) / max(1, len(discovered))
    }
    if world in ("causal", "heteroscedastic"):
        found[f"{world}: Kendall of conv1, discovered with the wrong sign: wrong sign"] = any(
            row.layer == "conv1" and row.kendall.estimate < 0 for row in discovered
        )
    return found


@cache
def large_population(world: World) -> dict[str, float]:
    """ψ of conv1 by axis: zero in the null world, elsewhere the mean of six studies of 600 configurations."""
    if world == "null":
        return dict.fromkeys(AXES, 0.0)
    found: dict[str, list[float]] = {}
    for seed in range(6):
        row = _granulated(simulate(world, 10**6 + seed, configurations=600, replicates=1)[0], "conv1")
        for axis in row.axes:
            found.setdefault(axis.axis, []).append(np.nan if axis.kendall.estimate is None else axis.kendall.estimate)
    return {axis: float(np.mean(values)) for axis, values in found.items()}


def _granulated(evidence: Evidence, layer: str) -> Granulated:
    chosen = [s for s in evidence.signals if s.layer == layer and s.measure == "perplexity"]
    return granulated(_only(evidence, chosen))[0]


def _only(evidence: Evidence, signals: list[Signal]) -> Evidence:
    which = [evidence.signals.index(s) for s in signals]
    return Evidence(
        trials=evidence.trials,
        curves=evidence.curves,
        signals=tuple(signals),
        values=evidence.values[:, :, which],
        targets=evidence.targets,
    )


def controlled_run(seed: int) -> Outcome:
    """Granulated Kendall, conditional information and sign-errors of 60 configurations with three replicates."""
    found: Outcome = {}
    for world in ("null", "simpson"):
        evidence, _ = simulate(world, seed, configurations=60)
        row = _granulated(evidence, "conv1")
        for axis in row.axes:
            if axis.axis in AXES:
                truth = large_population(world)[axis.axis]
                found[f"{world}: granulated Kendall along {axis.axis}: covers"] = covers(axis.kendall, truth)
        error = sign_errors(_only(evidence, [s for s in evidence.signals if s.layer == "conv1"][:1]))[0]
        if world == "null":
            p, told = row.kendall.p, row.information
            found["null: granulated Kendall: false positive"] = None if p is None else p <= 0.05
            found["null: conditional information above chance: false positive"] = (
                None if told.value is None or told.chance is None else told.value > told.chance
            )
            p = error.mean.p
            found["null: mean sign-error: false positive"] = None if p is None else p <= 0.05
        else:
            worst = error.worst_environment or ""
            found["simpson: worst environment is a change of arm: share"] = worst.startswith("arm: ") and " / " in worst
            # Along the learning rate, arms are held fixed.
            along = next(a.kendall.estimate for a in row.axes if a.axis == "training.optimizer.lr")
            found["simpson: granulated Kendall along the learning rate: wrong sign"] = (
                None if along is None else along < 0
            )
    return found
