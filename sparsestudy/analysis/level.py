"""How much the gap differs between trials whose layers end sparser: within arms, between arms, and in which shape.

An association, not a cause: what makes a trial sparse may widen its gap by itself. `sparsestudy.analysis.cause` uses
what the study assigned.

The slope *within arms* compares trials of one arm, the slope *between arms* the arms' means (Mundlak 1978,
Econometrica 46, 69). Ignoring arms mixes the two and can turn the sign (Simpson's paradox). The slope within arms is
that of a linear mixed model with a random effect of the configuration nested in that of the arm: with the arm's mean
beside it, the arm's random effect leaves the slope as it is with arms held fixed (Mundlak), and the configuration's
weighs replicates by their correlation (`sparsestudy.analysis.spread`). Its interval does not rest on that model:
errors may be correlated within configurations and as unequal as they like (`sparsestudy.analysis.clustered`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sparsestudy.analysis.clustered import LEVEL, Design, Floats, contrast_effect, indicators
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.sample import POOLED, STEP, Gap, Sample, draw, full_length, pooled, sparsities
from sparsestudy.analysis.shape import Shape, no_shape, shape_of
from sparsestudy.analysis.spread import Spread, spread_of, whitened


@dataclass(frozen=True, kw_only=True)
class LayerLevel:
    """How the gap goes with the sparsity of one layer. Slopes are changes of the gap per 0.1 sparsity.

    Attributes:
        layer: Its name, or `POOLED`.
        trials: Trials used.
        configurations: Distinct configurations among them; the interval counts these, not trials.
        arms: Arms among them.
        within: Slope within arms.
        between: Slope between the means of arms; few arms carry it, and they differ in more than sparsity.
        by_arm: Slope in each arm alone.
        ignoring_arms: Least-squares slope that takes all trials as one heap; no interval, for arms are no noise.
        reversal: Whether that has the opposite sign to a slope within arms that is clearly not zero.
        spread: What the rest of the gap's variance is due to.
        shape: Whether a straight line will do, and what sparsity says of configurations not seen.
    """

    layer: str
    trials: int
    configurations: int
    arms: int
    within: Estimate
    between: Estimate
    by_arm: dict[str, Estimate]
    ignoring_arms: float | None
    reversal: bool
    spread: Spread
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Level:
    """The gap on sparsity, layer by layer and for their mean.

    Attributes:
        gap: In which metric: validation minus train loss, or train minus validation accuracy.
        measure: What sparsity is.
        layers: By layer, in the order of the network.
        pooled: Of the mean over layers.
        caveats: What a reader has to know, in sentences.
    """

    gap: Gap
    measure: str
    layers: dict[str, LayerLevel]
    pooled: LayerLevel
    caveats: tuple[str, ...]


def level(evidence: Evidence, of: Gap = "loss", *, shapes: bool = True) -> Level:
    """Relate the gap at the last epoch to the sparsity there, over all trials that were not stopped early.

    Args:
        evidence: Any number of trials, none included.
        of: Metric of the gap.
        shapes: Whether to compare shapes too, which takes most of the time.
    """
    kept, gap, by_layer = full_length(evidence), np.asarray(evidence.gap(of), dtype=np.float64), sparsities(evidence)
    mean = pooled(by_layer) if by_layer else np.full(len(evidence), np.nan)
    caveats = ["An association: what makes a trial sparse may widen its gap by itself."]
    if not kept.all():
        caveats.append(f"Trials stopped early are left out, for gaps grow with training: {int((~kept).sum())}.")
    held = draw(evidence, gap, mean, kept).held
    if held:
        caveats.append(f"Compared are trials on the same data only ({', '.join(held)} held fixed).")
    return Level(
        gap=of,
        measure=evidence.main,
        layers={n: _layer(n, draw(evidence, gap, values, kept), shapes) for n, values in by_layer.items()},
        pooled=_layer(POOLED, draw(evidence, gap, mean, kept), shapes),
        caveats=tuple(caveats),
    )


def _layer(layer: str, sample: Sample, shapes: bool) -> LayerLevel:
    spread = spread_of(sample)
    within = within_arms(sample, spread.ratio)
    ignoring = _ignoring_arms(sample)
    reversed_ = ignoring is not None and within.estimate is not None and ignoring * within.estimate < 0
    return LayerLevel(
        layer=layer,
        trials=len(sample),
        configurations=sample.configuration_count,
        arms=len(sample.names),
        within=within,
        between=between_arms(sample),
        by_arm={name: _one_arm(sample, number, spread.ratio) for number, name in enumerate(sample.names)},
        ignoring_arms=ignoring,
        reversal=reversed_ and within.excludes(0.0),
        spread=spread,
        shape=shape_of(sample) if shapes else no_shape("not asked for"),
    )


def within_arms(sample: Sample, ratio: float = 0.0) -> Estimate:
    """Slope of the gap on sparsity with arms, and the data where it is searched, held fixed; per 0.1 sparsity.

    Args:
        sample: Trials.
        ratio: Variance between configurations over variance between seeds, as assumed for the weights.
    """
    if len(sample) < 3:
        return Estimate(reason=f"{len(sample)} usable trials, and it takes at least 3")
    columns = np.column_stack([sample.sparsity, indicators(sample.cells)])
    both = whitened(np.column_stack([sample.gap, columns]), sample.configurations, ratio)
    design = Design.of(both[:, 1:], sample.configurations)
    slope = np.eye(columns.shape[1])[0]
    return contrast_effect(design, both[:, 0], slope, scale=STEP)


def _one_arm(sample: Sample, arm: int, ratio: float) -> Estimate:
    own = sample.arms == arm
    part = Sample(
        rows=sample.rows[own],
        gap=sample.gap[own],
        sparsity=sample.sparsity[own],
        arms=np.zeros(int(own.sum()), dtype=np.intp),
        names=(sample.names[arm],),
        configurations=sample.configurations[own],
        cells=np.unique(sample.cells[own], return_inverse=True)[1].astype(np.intp),
        held=sample.held,
    )
    return within_arms(part, ratio)


def between_arms(sample: Sample) -> Estimate:
    """Slope of the arms' mean gaps on their mean sparsities, per 0.1 sparsity; Student's t, arms minus 2 freedom.

    What differs between arms beside sparsity is far more than the noise of a mean, so every arm counts alike.
    """
    arms = len(sample.names)
    if arms < 3:
        return Estimate(reason=f"{_arms(arms)}, and a slope between arms takes at least 3")
    count = np.bincount(sample.arms)
    x, y = (np.bincount(sample.arms, values) / count for values in (sample.sparsity, sample.gap))
    if np.ptp(x) <= 1e-9 * np.abs(x).max():
        return Estimate(reason="all arms end equally sparse")
    if np.ptp(y) <= 1e-12 * max(np.abs(y).max(), 1e-300):
        return Estimate(reason="all arms have the same mean gap")
    fit = stats.linregress(x, y)
    slope, error, p = float(fit.slope), float(fit.stderr), float(fit.pvalue)
    if not error > 0 or not np.isfinite([slope, error, p]).all():
        return Estimate(reason="the arms' means lie on a line, so there is no noise to judge it by")
    margin = float(stats.t.ppf((1 + LEVEL) / 2, arms - 2)) * error
    return Estimate(
        estimate=STEP * slope,
        low=STEP * (slope - margin),
        high=STEP * (slope + margin),
        p=p,
        freedom=float(arms - 2),
    )


def _ignoring_arms(sample: Sample) -> float | None:
    if len(sample) < 2:
        return None
    x: Floats = sample.sparsity - sample.sparsity.mean()
    square = float(x @ x)
    return STEP * float(x @ sample.gap) / square if square > 1e-18 * len(x) else None


def _arms(count: int) -> str:
    return "1 arm" if count == 1 else f"{count} arms"
