"""Whether layers did what was asked of them: requested against achieved sparsity, and what can be reached at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsestudy.analysis.clustered import Design, Floats, contrast_effect, indicators
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.sample import Sample

ATTAINED = 0.03
"""A target counts as attained within this much sparsity."""
BINS = 5


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Trials whose targets lie together.

    Attributes:
        low: Smallest target.
        high: Largest target.
        trials: How many.
        requested: Mean target.
        achieved: Mean sparsity at the end.
        achieved_low: 5 % quantile of the sparsity at the end.
        achieved_high: 95 % quantile.
        attained: Share within `ATTAINED` of the target.
    """

    low: float
    high: float
    trials: int
    requested: float
    achieved: float
    achieved_low: float
    achieved_high: float
    attained: float


@dataclass(frozen=True, kw_only=True)
class Compliance:
    """Requested against achieved sparsity of one layer.

    Attributes:
        trials: Trials with a target for the layer.
        slope: Achieved sparsity per unit of requested sparsity, arms held fixed: 1 obeys, 0 ignores.
        attained: Share of trials within `ATTAINED` of their target.
        below: Share that ended more than `ATTAINED` denser than the target.
        above: Share that ended more than `ATTAINED` sparser than the target.
        region: What was reached over all that was requested: 5 % and 95 % quantiles of achieved sparsity.
        bins: By target, about equally many trials each.
        reason: Why there is no table; empty otherwise.
    """

    trials: int
    slope: Estimate
    attained: float | None = None
    below: float | None = None
    above: float | None = None
    region: tuple[float, float] | None = None
    bins: tuple[Bin, ...] = ()
    reason: str = ""


def compliance(sample: Sample, targets: Floats) -> Compliance:
    """Compare ``targets [m]`` with what the trials of the sample, all with a target, achieved."""
    if not len(sample):
        reason = "no trial with a target for this layer"
        return Compliance(trials=0, slope=Estimate(reason=reason), reason=reason)
    columns = np.column_stack([targets, indicators(sample.arms)])
    design = Design.of(columns, sample.configurations)
    low, high = np.quantile(sample.sparsity, [0.05, 0.95])
    off = sample.sparsity - targets
    return Compliance(
        trials=len(sample),
        slope=contrast_effect(design, sample.sparsity, np.eye(columns.shape[1])[0]),
        attained=float((np.abs(off) <= ATTAINED).mean()),
        below=float((off < -ATTAINED).mean()),
        above=float((off > ATTAINED).mean()),
        region=(float(low), float(high)),
        bins=_bins(sample.sparsity, targets),
    )


def _bins(achieved: Floats, targets: Floats) -> tuple[Bin, ...]:
    edges = np.unique(np.quantile(targets, np.linspace(0, 1, BINS + 1)))
    place = np.searchsorted(edges[1:-1], targets, side="right")
    return tuple(_bin(achieved[place == i], targets[place == i]) for i in np.unique(place))


def _bin(achieved: Floats, targets: Floats) -> Bin:
    low, high = np.quantile(achieved, [0.05, 0.95])
    return Bin(
        low=float(targets.min()),
        high=float(targets.max()),
        trials=len(targets),
        requested=float(targets.mean()),
        achieved=float(achieved.mean()),
        achieved_low=float(low),
        achieved_high=float(high),
        attained=float((np.abs(achieved - targets) <= ATTAINED).mean()),
    )
