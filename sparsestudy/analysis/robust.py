"""In which environment does a signal rank the gaps worst? After Dziugaite et al.

Dziugaite et al., In Search of Robust Measures of Generalization (NeurIPS 2020, arXiv 2010.11924), hold that a signal
explains the gap only if it does so in every environment, so that its worst sign-error counts, not the mean.

VERBATIM from the authors' code (nitarshan/robust-generalization-measures, ``coupled_network``): the sign-error of a
pair (1 - sign(c1 - c2) sign(g1 - g2)) / 2; its weight (w - 1/2)₊ with w = (1 - 2 exp(-2 n (Δg / 2)²))₊², by Hoeffding's
bound the confidence that two gaps in accuracy, each from n examples, really differ; the weighted mean over the pairs of
an environment; environments whose effective number of pairs (Σ w)² / Σ w² is below 12 are left out.

ASSUMED: which pairs make an environment. Theirs are two points of a grid that differ in one hyperparameter, with many
seeds each. A random search has no such points. Here an environment is an arm, or a change of one axis between two of
its levels with the others fixed (`sparsestudy.analysis.pairs`). ASSUMED, too: for gaps in loss, which no bound holds,
the confidence comes from the replicates, w = 2 Φ(Δg / (σ √2)) - 1 with σ their pooled standard deviation; without
replicates all pairs weigh alike.

0 is right in every pair, 1/2 a coin flip, 1 wrong in every pair: a signal that falls as the gap grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from sparsestudy.analysis.agreement import Agreement, agreement
from sparsestudy.analysis.corrections import select
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Array, Evidence, Signal
from sparsestudy.analysis.jackknife import as_error, numbered
from sparsestudy.analysis.pairs import (
    Pairs,
    Whole,
    arm_of,
    axes_of,
    between_levels,
    joined,
    kept,
    part_of,
    single_axis,
    within_levels,
)
from sparsestudy.analysis.ranks import Moment, signals_at
from sparsestudy.analysis.sample import full_length

FEWEST_EFFECTIVE = 12.0
"""Effective pairs of an environment, as in the authors' code."""
FEWEST_CONFIGURATIONS = 5
"""Configurations of an environment; ours, since pairs of replicates are not independent."""


@dataclass(frozen=True, kw_only=True)
class SignError:
    """How one signal ranks the gaps of pairs of trials, environment by environment.

    Attributes:
        kind, layer, measure, at: The signal and its moment, as in `ranks.RankCorrelation`.
        mean: Mean sign-error over the environments, in [0, 1]; its p-value is that of a coin flip.
        worst: Largest sign-error of an environment. Being the largest of several, it errs upwards.
        worst_environment: Which one.
        environments: Sign-error by environment.
        left_out: How many environments have too few effective pairs or configurations.
        weights: Where the weights of pairs come from: ``hoeffding``, ``replicates`` or ``none``.
        reason: Why there is no worst; empty otherwise.
    """

    kind: str
    layer: str
    measure: str
    at: Moment
    mean: Estimate
    worst: float | None
    worst_environment: str | None
    environments: dict[str, float]
    left_out: int
    weights: str
    reason: str = ""


def sign_errors(
    evidence: Evidence, of: Literal["loss", "accuracy"] = "loss", examples: int | None = None
) -> tuple[SignError, ...]:
    """Sign-errors of every signal at its last and its best epoch.

    Args:
        evidence: Any number of trials; those stopped early are left out, and of more than `pairs.MOST_TRIALS` a random
            part of that size is used.
        of: The gap in loss or in accuracy.
        examples: How many examples the validation accuracy is from; only for gaps in accuracy between 0 and 1.
    """
    evidence = select(evidence, full_length(evidence))
    taken = part_of(evidence.trials["configuration"].to_numpy())
    evidence = select(evidence, taken)
    configurations = numbered(evidence.trials["configuration"].to_numpy())
    gap = evidence.gap(of)
    pairs, source = _weighted(_environments(evidence, configurations), gap, configurations, examples)
    found = []
    for signal, moment, values in signals_at(evidence):
        ranked = agreement(pairs, values, gap, configurations)
        found.append(_row(signal, moment, ranked, pairs.names, source))
    return tuple(found)


def _environments(evidence: Evidence, configurations: Whole) -> Pairs:
    axes = axes_of(evidence)
    changes = between_levels(single_axis(axes, configurations), axes)
    return joined(within_levels(arm_of(evidence), configurations), changes)


def _weighted(pairs: Pairs, gap: Array, configurations: Whole, examples: int | None) -> tuple[Pairs, str]:
    """Pairs with a gap and a positive weight, and where the weights come from."""
    pairs = kept(pairs, np.isfinite(gap[pairs.first]) & np.isfinite(gap[pairs.second]))
    difference = np.abs(gap[pairs.first] - gap[pairs.second])
    spread = replicate_spread(gap, configurations)
    if examples is not None:
        weight, source = hoeffding_weight(difference, examples), "hoeffding"
    elif spread is not None and spread > 0:
        # 2 Φ(x / √2) - 1 = erf(x / 2)
        weight, source = np.maximum(special.erf(difference / (2 * spread)) - 0.5, 0.0), "replicates"
    else:
        weight, source = np.ones(len(difference)), "none"
    return kept(replace(pairs, weight=weight), weight > 0), source


def hoeffding_weight(difference: Array, examples: int) -> Array:
    """Weight of a pair by how surely its two gaps in accuracy differ.

    Args:
        difference: Absolute differences of gaps in accuracy, in [0, 2].
        examples: How many examples each gap is from.

    Example:
        >>> hoeffding_weight(np.array([0.01, 0.05]), 10_000).round(4).tolist()  # (1 - 2 exp(-12.5))² - 1/2
        [0.0, 0.5]
    """
    sure = np.maximum(1 - 2 * np.exp(-2 * examples * (difference / 2) ** 2), 0.0) ** 2
    return np.asarray(np.maximum(sure - 0.5, 0.0))


def replicate_spread(values: Array, configurations: Whole) -> float | None:
    """Standard deviation among replicates, pooled over configurations; None without replicates.

    Example:
        >>> replicate_spread(np.array([1.0, 3.0, 5.0, 9.0]), np.array([0, 0, 1, 1]))  # sqrt((2 + 8) / 2)
        2.23606797749979
    """
    usable = np.isfinite(values)
    values, of = values[usable], numbered(configurations[usable])
    sizes = np.bincount(of)
    freedom = len(values) - len(sizes)
    if freedom < 1:
        return None
    means = np.bincount(of, values) / sizes
    return float(np.sqrt(((values - means[of]) ** 2).sum() / freedom))


def _row(signal: Signal, moment: Moment, ranked: Agreement, names: Sequence[str], source: str) -> SignError:
    enough = (ranked.effective >= FEWEST_EFFECTIVE) & (ranked.configurations >= FEWEST_CONFIGURATIONS)
    errors = {name: float((1 - v) / 2) for name, v, use in zip(names, ranked.value, enough, strict=True) if use}
    reason = f"no environment has {FEWEST_EFFECTIVE:g} effective pairs of {FEWEST_CONFIGURATIONS} configurations"
    mean = Estimate(reason=reason)
    if errors:
        mean = as_error(ranked.mean(enough))
    worst = max(errors, key=lambda name: errors[name]) if errors else None
    return SignError(
        kind=signal.kind,
        layer=signal.layer,
        measure=signal.measure,
        at=moment,
        mean=mean,
        worst=errors[worst] if worst else None,
        worst_environment=worst,
        environments=errors,
        left_out=int((~enough).sum()),
        weights=source,
        reason="" if errors else reason,
    )
