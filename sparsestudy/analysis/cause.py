"""What sparsity does to the gap, by what the study assigned: targets as instruments for achieved sparsity.

Comparing trials by the sparsity they ended with mistakes what makes a trial sparse for what sparsity does. But the
sampler *draws* the targets, so trials with different targets differ in nothing else to begin with: what the gap does
when the target moves the sparsity is the sparsity's doing, if the target reaches the gap in no other way.

Two-stage least squares (linearmodels' `IV2SLS`) with one instrument a layer (`sparsestudy.analysis.instrument`),
arms and strengths held constant, among the trials that have a target for the layer. Intervals are clustered on the
configuration with the small-sample sandwich of `sparsestudy.analysis.clustered`. Where targets hardly move sparsity
(F below 10, Staiger & Stock 1997, Econometrica 65, 557) that interval is wrong; the one of Anderson & Rubin (1949,
Ann. Math. Stat. 20, 46) is right all the same. With one instrument the effective F of Montiel Olea & Pflueger (2013)
is the robust F used here (Andrews, Stock & Sun 2019, Annu. Rev. Econ. 11, 727).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from linearmodels.iv import IV2SLS

from sparsestudy.analysis.anderson_rubin import Region, region_of
from sparsestudy.analysis.clustered import LEVEL, Design, Floats, Projection, contrast_effect, effect_of
from sparsestudy.analysis.compliance import Compliance, compliance
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.instrument import Assigned, assigned, together
from sparsestudy.analysis.sample import POOLED, STEP, Gap, Sample, full_length, sparsities

WEAK = 10.0
FEWEST = 8
RANDOM_SAMPLERS = ("random", "qmc", "grid")
IDENTIFIES = (
    "The effect of such changes of sparsity as the penalty brings about, in trials whose sparsity follows its target; "
    "trials that follow more count more (a local average effect, Imbens & Angrist 1994)."
)
EXCLUSION = (
    "It is sparsity's effect only if a target reaches the gap through this layer's sparsity alone. The penalty also "
    "changes gradients, weights and other layers, and what reaches the gap by those ways is counted in."
)


@dataclass(frozen=True, kw_only=True)
class LayerCause:
    """What the sparsity of one layer does to the gap. Effects are changes of the gap per 0.1 sparsity.

    Attributes:
        layer: Its name, or `POOLED`: all layers with targets moved together.
        trials: Trials with a target for it.
        configurations: Distinct configurations among them.
        effect: Two-stage least squares; not to be trusted if weak.
        anderson_rubin: Interval and p-value that hold however weak the instrument.
        naive: Least squares on the same trials, for comparison.
        f: Of the first stage, robust.
        weak: Whether ``f`` is below 10.
        exogeneity: p-value of the naive slope being as good (Wu & Hausman, by the residual of the first stage).
        form: Whether the instrument is the ``target`` as it is, ``up to`` the kink, or ``from`` it on.
        kink: See there; None if there is none.
        natural: Median sparsity of the layer in trials without a target for it; None if there are too few.
        spill: By other layer: its change per change of this layer's sparsity, both by the instrument.
        reason: Why there is no effect; empty otherwise.
    """

    layer: str
    trials: int
    configurations: int
    effect: Estimate
    anderson_rubin: Region
    naive: Estimate
    f: float | None = None
    weak: bool | None = None
    exogeneity: float | None = None
    form: str | None = None
    kink: float | None = None
    natural: float | None = None
    spill: dict[str, Estimate]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The gap on assigned sparsity.

    Attributes:
        gap: Metric of the gap.
        measure: What sparsity is.
        layers: By layer with a target.
        pooled: Of the mean of those layers.
        compliance: By layer, requested against achieved.
        identifies: Which effect this is.
        caveats: What it rests on, in sentences.
    """

    gap: Gap
    measure: str
    layers: dict[str, LayerCause]
    pooled: LayerCause
    compliance: dict[str, Compliance]
    identifies: str
    caveats: tuple[str, ...]


def cause(evidence: Evidence, of: Gap = "loss", *, sampler: str | None = None) -> Cause:
    """Estimate the effect of every layer's sparsity on the gap at the last epoch.

    Args:
        evidence: Any number of trials, none included.
        of: Metric of the gap.
        sampler: What drew the targets, as in a study file. Unless it draws without looking at results, every searched
            number and the trial's number are held constant too; unknown counts as looking.
    """
    gap = np.asarray(evidence.gap(of), dtype=np.float64)
    adaptive = sampler not in RANDOM_SAMPLERS
    found = {
        layer: assigned(evidence, gap, layer, values, adaptive)
        for layer, values in sparsities(evidence).items()
        if layer in evidence.targets
    }
    layers = {layer: _estimate(layer, part, _others(layer, found)) for layer, part in found.items()}
    return Cause(
        gap=of,
        measure=evidence.main,
        layers=layers,
        pooled=_estimate(POOLED, together(evidence, gap, list(found.values()), adaptive), {}),
        compliance={
            layer: compliance(part.sample, np.asarray(evidence.targets[layer][part.sample.rows], dtype=np.float64))
            for layer, part in found.items()
        },
        identifies=IDENTIFIES,
        caveats=_caveats(evidence, layers, sampler, max((part.lost for part in found.values()), default=0)),
    )


def _estimate(layer: str, part: Assigned, others: Mapping[str, Floats]) -> LayerCause:
    """All that is said of one layer, or why nothing can be."""
    sample, held = part.sample, part.held
    count = sample.configuration_count
    if count < FEWEST:
        reason = f"{count} configurations with a target, and it takes at least {FEWEST}"
        return _unknown(layer, sample, Estimate(reason=reason), reason)
    naive = _slope(sample.sparsity, held, sample, sample.gap)
    first = Design.of(np.column_stack([part.instrument.values, held]), sample.configurations)
    projection = first.project(np.eye(1, 1 + held.shape[1])[0])
    if isinstance(projection, str):
        return _unknown(layer, sample, naive, f"the targets: {projection}")
    left = first.residuals(np.column_stack([sample.gap, sample.sparsity]))
    moved = effect_of(projection, sample.sparsity, left[:, 1])
    second = Design.of(np.column_stack([sample.sparsity - left[:, 1], held]), sample.configurations)
    foretold = second.project(np.eye(1, 1 + held.shape[1])[0])
    if moved.estimate is None or isinstance(foretold, str):
        return _unknown(layer, sample, naive, f"the sparsity achieved: {moved.reason or 'targets do not move it'}")
    return _known(layer, part, others, naive, (projection, foretold), (left[:, 0], left[:, 1]))


def _known(
    layer: str,
    part: Assigned,
    others: Mapping[str, Floats],
    naive: Estimate,
    stages: tuple[Projection, Projection],
    left: tuple[Floats, Floats],
) -> LayerCause:
    """What follows from both stages, and from what the first leaves of gap and sparsity."""
    sample, (first, second) = part.sample, stages
    fixed = Design.of(part.held, sample.configurations)
    f = float((first.weights @ sample.sparsity) ** 2 / (first.scores(left[1]) ** 2).sum())
    return LayerCause(
        layer=layer,
        trials=len(sample),
        configurations=sample.configuration_count,
        effect=_two_stage(part, fixed, second),
        anderson_rubin=region_of(first, sample.gap, sample.sparsity, left, scale=STEP),
        naive=naive,
        f=f,
        weak=f < WEAK,
        exogeneity=_slope(left[1], np.column_stack([sample.sparsity, part.held]), sample, sample.gap).p,
        form=part.instrument.form,
        kink=part.instrument.kink,
        natural=part.instrument.natural,
        spill={name: _moved_along(part, fixed, second, values[sample.rows]) for name, values in others.items()},
    )


def _two_stage(part: Assigned, fixed: Design, foretold: Projection) -> Estimate:
    """Two-stage least squares of the gap, with the interval of the second stage's projection."""
    sample = part.sample
    # The library wants columns of full rank; the basis spans what the columns span.
    model = IV2SLS(sample.gap, fixed.basis * np.sqrt(len(sample)), sample.sparsity, part.instrument.values)
    fit = model.fit(cov_type="clustered", clusters=sample.configurations)
    return effect_of(foretold, sample.gap, np.asarray(fit.resids, dtype=np.float64), scale=STEP)


def _moved_along(part: Assigned, fixed: Design, foretold: Projection, other: Floats) -> Estimate:
    """Two-stage least squares of another layer's sparsity on this layer's."""
    if not np.isfinite(other).all():
        return Estimate(reason="undefined in some of the trials")
    slope = float(foretold.weights @ other)
    return effect_of(foretold, other, fixed.residuals(other - slope * part.sample.sparsity))


def _slope(column: Floats, held: Floats, sample: Sample, response: Floats) -> Estimate:
    design = Design.of(np.column_stack([column, held]), sample.configurations)
    return contrast_effect(design, response, np.eye(1, 1 + held.shape[1])[0], scale=STEP)


def _unknown(layer: str, sample: Sample, naive: Estimate, reason: str) -> LayerCause:
    return LayerCause(
        layer=layer,
        trials=len(sample),
        configurations=sample.configuration_count,
        effect=Estimate(reason=reason),
        anderson_rubin=Region(words=f"unbounded: {reason}"),
        naive=naive,
        spill={},
        reason=reason,
    )


def _others(layer: str, found: Mapping[str, Assigned]) -> dict[str, Floats]:
    return {name: part.sparsity for name, part in found.items() if name != layer}


def _caveats(evidence: Evidence, layers: Mapping[str, LayerCause], sampler: str | None, lost: int) -> tuple[str, ...]:
    sentences = [EXCLUSION]
    weak = [layer for layer, found in layers.items() if found.weak]
    if weak:
        sentences.append(
            f"Targets hardly move {', '.join(weak)} (F below {WEAK:g}): only the Anderson-Rubin region holds there."
        )
    pairs = [(layer, e.p) for layer, found in layers.items() if not found.weak for e in found.spill.values()]
    moved = dict.fromkeys(layer for layer, p in pairs if p is not None and p < (1 - LEVEL) / len(pairs))  # Bonferroni
    if moved:
        sentences.append(f"Moving {', '.join(moved)} moves other layers too; the effect is of what moves together.")
    if sampler not in RANDOM_SAMPLERS:
        sentences.append(
            f"Sampler {sampler or 'not known'}: a sampler that learns makes targets depend on earlier results, so they"
            " are not drawn at random. Every searched number and the order of trials are held constant, which helps"
            " where what it learnt goes through these; only random, qmc and grid settle it."
        )
    stopped = int((~full_length(evidence)).sum())
    if stopped:
        sentences.append(f"Left out because stopped early, which is not by chance: {stopped} trials.")
    if lost:
        sentences.append(
            f"Left out because a layer died or a loss was no number, which targets may have caused: {lost} trials."
        )
    return tuple(sentences)
