"""What keeps many looks at few configurations honest.

Many signals: Benjamini and Hochberg's procedure. Replicates that resemble each other: the effective number of trials.
One odd arm: the same estimate without each arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from sparsestudy.analysis.evidence import Array, Evidence
from sparsestudy.analysis.jackknife import numbered


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """Outcomes of a family of tests, in the order given.

    Attributes:
        tests: How many p-values there were.
        adjusted: Smallest rate of false discoveries at which each is one; None where there was no p-value.
        rejected: Whether that is at most the rate asked for.
    """

    tests: int
    adjusted: tuple[float | None, ...]
    rejected: tuple[bool, ...]


def benjamini_hochberg(p: Sequence[float | None], alpha: float = 0.05) -> Corrected:
    """Control the rate of false discoveries (Benjamini and Hochberg 1995, JRSS B 57; statsmodels ``fdr_bh``).

    Proved for independent tests and for a kind of positive dependence (Benjamini and Yekutieli 2001, Annals of
    Statistics 29); two-sided tests of several measures of one layer are near it, and simulated studies bear it out.

    Args:
        p: P-values in [0, 1]; None where there is none, which does not count as a test.
        alpha: Rate of false discoveries, in (0, 1).

    Example:
        >>> benjamini_hochberg([0.125, None, 0.1875, 0.5]).adjusted  # 3 * 0.125 > 3 / 2 * 0.1875
        (0.28125, None, 0.28125, 0.5)
    """
    known = [i for i, value in enumerate(p) if value is not None]
    adjusted: list[float | None] = [None] * len(p)
    if known:
        found = multipletests([p[i] for i in known], alpha=alpha, method="fdr_bh")[1]
        for i, value in zip(known, found, strict=True):
            adjusted[i] = float(value)
    rejected = tuple(value is not None and value <= alpha for value in adjusted)
    return Corrected(tests=len(known), adjusted=tuple(adjusted), rejected=rejected)


@dataclass(frozen=True, kw_only=True)
class EffectiveSample:
    """How many independent trials a sample with replicates is worth.

    Attributes:
        trials, configurations: As recorded.
        correlation: Intra-class correlation of replicates, in [-1, 1]; None where it is undefined.
        design_effect: Factor by which replicates inflate the variance of a mean, at least 1.
        effective: Trials divided by the design effect.
        reason: Why there is no correlation; empty otherwise.
    """

    trials: int
    configurations: int
    correlation: float | None
    design_effect: float
    effective: float
    reason: str = ""


def effective_sample(values: Array, configurations: NDArray[np.int64]) -> EffectiveSample:
    """Effective number of trials by the intra-class correlation of replicates.

    The correlation is that of the one-way analysis of variance, with the mean size of unequal groups adjusted (Donner
    1986, International Statistical Review 54); the design effect is Kish's, 1 + (Σ m² / Σ m - 1) ρ (1965), with a
    negative ρ counted as zero. Without replicates, every trial counts as one.

    Args:
        values: Such as the gap, ``[n]``; NaN is left out.
        configurations: Of each trial, ``[n]``.

    Example:
        >>> found = effective_sample(np.array([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]), np.array([0, 0, 1, 1, 2, 2]))
        >>> found.correlation, found.effective
        (1.0, 3.0)
    """
    usable = np.isfinite(values)
    values, groups = values[usable], numbered(configurations[usable])
    sizes = np.bincount(groups).astype(np.float64)
    n, count = len(values), len(sizes)

    def found(correlation: float | None, reason: str = "") -> EffectiveSample:
        effect = 1 + (float((sizes**2).sum()) / n - 1) * max(correlation or 0.0, 0.0) if n else 1.0
        return EffectiveSample(
            trials=n,
            configurations=count,
            correlation=correlation,
            design_effect=effect,
            effective=n / effect,
            reason=reason,
        )

    if count < 2 or n == count:
        return found(None, "one configuration" if count == 1 else "no replicates" if n else "no trials")
    means = np.bincount(groups, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[groups]) ** 2).sum()) / (n - count)
    size = (n - float((sizes**2).sum()) / n) / (count - 1)
    total = between + (size - 1) * within
    if total <= 1e-300:
        return found(None, "the values do not vary")
    return found((between - within) / total)


@dataclass(frozen=True, kw_only=True)
class ArmSensitivity:
    """An estimate with all trials, and without each arm.

    Attributes:
        estimate: With all trials.
        without: By arm that is left out; None where the estimate cannot be said.
        low, high: The range of all of these; None where there is none.
        sign_holds: Whether all of them have the same sign; None if one cannot be said, or there is one arm only.
        reason: Why something is None; empty otherwise.
    """

    estimate: float | None
    without: dict[str, float | None]
    low: float | None
    high: float | None
    sign_holds: bool | None
    reason: str = ""


def without_each_arm(evidence: Evidence, estimate: Callable[[Evidence], float | None]) -> ArmSensitivity:
    """How far an estimate hangs on one arm.

    Args:
        evidence: All trials.
        estimate: What to estimate; NaN counts as None.
    """
    arms = list(dict.fromkeys(evidence.trials["arm"]))
    whole = _finite(estimate(evidence))
    if len(arms) < 2:
        reason = "there is one arm only" if arms else "no trials"
        return ArmSensitivity(estimate=whole, without={}, low=whole, high=whole, sign_holds=None, reason=reason)
    column = evidence.trials["arm"].to_numpy()
    without = {str(arm): _finite(estimate(select(evidence, column != arm))) for arm in arms}
    values = [v for v in (whole, *without.values()) if v is not None]
    unknown = [arm for arm, value in without.items() if value is None]
    complete = len(values) == len(arms) + 1
    return ArmSensitivity(
        estimate=whole,
        without=without,
        low=min(values, default=None),
        high=max(values, default=None),
        sign_holds=len({math.copysign(1, v) if v else 0 for v in values}) == 1 if complete else None,
        reason="" if complete else "not estimable without " + ", ".join(unknown) if unknown else "not estimable",
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def select(evidence: Evidence, which: NDArray[np.bool_]) -> Evidence:
    """The evidence of some trials only, ``which`` being ``[n]``."""
    return replace(
        evidence,
        trials=evidence.trials[which].reset_index(drop=True),
        curves={name: curve[which] for name, curve in evidence.curves.items()},
        values=evidence.values[which],
        targets={layer: target[which] for layer, target in evidence.targets.items()},
    )
