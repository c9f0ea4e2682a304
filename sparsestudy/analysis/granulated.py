"""Does a signal still go with the gap where the other hyperparameters are held fixed? After Jiang et al.

Granulated Kendall (Jiang et al., Fantastic Generalization Measures and Where to Find Them, ICLR 2020, arXiv 1912.02178)
asks of one axis at a time, the others fixed: does more of the measure go with a larger gap? ψ of an axis is the mean of
sign · sign over pairs of trials that differ on that axis only, Ψ the mean of ψ over axes.

DERIVED: theirs is a mean over groups of equal size on a full grid, where it is the same; groups of a random search are
of unequal size, and here every pair counts alike. ASSUMED: the levels of continuous parameters are quantile bins
(`sparsestudy.analysis.pairs`), and axes with too few pairs are left out of Ψ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparsestudy.analysis.agreement import Agreement, agreement
from sparsestudy.analysis.corrections import select
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.information import Information, information
from sparsestudy.analysis.jackknife import numbered
from sparsestudy.analysis.pairs import Axis, axes_of, part_of, single_axis
from sparsestudy.analysis.ranks import Moment, signals_at
from sparsestudy.analysis.sample import full_length

FEWEST_PAIRS = 20
FEWEST_CONFIGURATIONS = 8
"""Axes with fewer pairs of trials, or with fewer configurations in them, are left out."""
NO_AXIS = f"no axis has {FEWEST_PAIRS} pairs of {FEWEST_CONFIGURATIONS} configurations that differ on it only"


@dataclass(frozen=True, kw_only=True)
class AxisRank:
    """Agreement of a signal with the gap along one axis.

    Attributes:
        axis: The parameter, or ``arm``.
        binned: Whether its values were cut into quantile bins.
        pairs: Pairs of trials that differ on this axis only.
        configurations: In any of these pairs.
        kendall: ψ in [-1, 1]; None with fewer than `FEWEST_PAIRS` pairs or `FEWEST_CONFIGURATIONS` in them.
    """

    axis: str
    binned: bool
    pairs: int
    configurations: int
    kendall: Estimate


@dataclass(frozen=True, kw_only=True)
class Granulated:
    """Agreement of one signal with the gap, hyperparameters held fixed.

    Attributes:
        kind, layer, measure, at: The signal and its moment, as in `ranks.RankCorrelation`.
        kendall: Ψ, in [-1, 1], the mean of ψ over the axes with enough pairs.
        pairs: Of these axes in all.
        axes: These axes, and those with too few pairs.
        information: What the signal tells of the gap beyond hyperparameters.
    """

    kind: str
    layer: str
    measure: str
    at: Moment
    kendall: Estimate
    pairs: int
    axes: tuple[AxisRank, ...]
    information: Information


def granulated(evidence: Evidence, of: Literal["loss", "accuracy"] = "loss") -> tuple[Granulated, ...]:
    """Every signal at its last and its best epoch, hyperparameters held fixed.

    Args:
        evidence: Any number of trials; those stopped early are left out, and of more than `pairs.MOST_TRIALS` a random
            part of that size is used.
        of: The gap in loss or in accuracy.
    """
    evidence = select(evidence, full_length(evidence))
    taken = part_of(evidence.trials["configuration"].to_numpy())
    evidence = select(evidence, taken)
    configurations = numbered(evidence.trials["configuration"].to_numpy())
    gap, axes = evidence.gap(of), axes_of(evidence)
    pairs = single_axis(axes, configurations)
    found = []
    for signal, moment, values in signals_at(evidence):
        ranked = agreement(pairs, values, gap, configurations)
        enough = (ranked.pairs >= FEWEST_PAIRS) & (ranked.configurations >= FEWEST_CONFIGURATIONS)
        row = Granulated(
            kind=signal.kind,
            layer=signal.layer,
            measure=signal.measure,
            at=moment,
            kendall=ranked.mean(enough) if enough.any() else Estimate(reason=NO_AXIS),
            pairs=int(ranked.pairs[enough].sum()),
            axes=tuple(_along(axis, ranked, i, bool(enough[i])) for i, axis in enumerate(axes)),
            information=information(values, gap, axes, configurations),
        )
        found.append(row)
    return tuple(found)


def _along(axis: Axis, ranked: Agreement, i: int, enough: bool) -> AxisRank:
    pairs, configurations = int(ranked.pairs[i]), int(ranked.configurations[i])
    few = f"{pairs} pairs of {configurations} configurations, needs {FEWEST_PAIRS} of {FEWEST_CONFIGURATIONS}"
    return AxisRank(
        axis=axis.name,
        binned=axis.binned,
        pairs=pairs,
        configurations=configurations,
        kendall=ranked.mean(np.arange(len(ranked.pairs)) == i) if enough else Estimate(reason=few),
    )
