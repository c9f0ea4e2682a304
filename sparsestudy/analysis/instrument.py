"""What a study assigned, turned into an instrument for the sparsity that came of it, and what is held constant.

A set-point penalty is one-sided: a target beyond a layer's natural sparsity asks for nothing, and moves nothing. The
instrument is therefore the target up to the natural level (or from it on, where the penalty makes layers sparser). That
level is taken from trials *without* a target for the layer, so that no trial's own noise shapes its instrument; where
there are none, the target is used as it is, which is as valid and a little weaker. One instrument for one sparsity:
what is compared stays plain, and its inference holds in small samples (Angrist & Kolesár 2024, J. Econometrics 240).
ASSUMED: the kink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sparsestudy.analysis.clustered import Floats, indicators
from sparsestudy.analysis.conditions import conditions
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.sample import Sample, draw, full_length

FEWEST = 5
"""Trials without a target that it takes to say what a layer's natural sparsity is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instrument:
    """The instrument of one layer.

    Attributes:
        values: ``[m]``, in units of sparsity.
        form: The ``target`` as it is, ``up to`` the kink, or ``from`` it on.
        kink: Where; None for the target as it is.
        natural: Median sparsity of the layer in trials without a target for it; None if there are too few.
    """

    values: Floats
    form: Literal["target", "up to", "from"] = "target"
    kink: float | None = None
    natural: float | None = None


def instrument(targets: Floats, achieved: Floats, free: Floats) -> Instrument:
    """The instrument made of ``targets [m]``.

    The kink never leaves less than half of the targets to vary: arms without targets may have a natural level of their
    own.

    Args:
        targets: Of the trials with one.
        achieved: Their sparsity.
        free: Sparsity of the trials without one.

    Example:
        >>> targets, achieved = np.array([0.3, 0.5, 0.7, 0.9]), np.array([0.4, 0.5, 0.6, 0.6])
        >>> instrument(targets, achieved, free=np.full(5, 0.625)).values.tolist()
        [0.3, 0.5, 0.625, 0.625]
    """
    if len(free) < FEWEST or not len(targets):
        return Instrument(values=targets)
    natural, half = float(np.median(free)), float(np.median(targets))
    if np.median(achieved) > natural:
        kink = min(natural, half)
        return Instrument(values=np.maximum(targets, kink), form="from", kink=kink, natural=natural)
    kink = max(natural, half)
    return Instrument(values=np.minimum(targets, kink), form="up to", kink=kink, natural=natural)


@dataclass(frozen=True, kw_only=True, eq=False)
class Assigned:
    """The trials of a study that were assigned a sparsity of some layer, or of several.

    Attributes:
        sample: Those that can be used.
        instrument: Made of their targets.
        held: What is held constant in comparing them, ``[m, k]``.
        sparsity: Of all trials of the evidence, ``[n]``.
        lost: Trials with a target whose gap or sparsity is undefined at the end.
    """

    sample: Sample
    instrument: Instrument
    held: Floats
    sparsity: Floats
    lost: int = 0


def assigned(evidence: Evidence, gap: Floats, layer: str, sparsity: Floats, adaptive: bool) -> Assigned:
    """What was assigned to one layer, given gap and sparsity at the end, ``[n]``; see `held_constant` for the rest."""
    targets, full = evidence.targets[layer], full_length(evidence)
    asked = full & np.isfinite(targets)
    sample = draw(evidence, gap, sparsity, asked)
    others = [name for name in evidence.targets if name != layer]
    held = held_constant(evidence, sample, others, adaptive=adaptive)
    free = draw(evidence, gap, sparsity, full & np.isnan(targets)).sparsity
    chosen = instrument(np.asarray(targets[sample.rows], dtype=np.float64), sample.sparsity, free)
    lost = int(asked.sum()) - len(sample)
    return Assigned(sample=sample, instrument=chosen, held=held, sparsity=sparsity, lost=lost)


def together(evidence: Evidence, gap: Floats, found: Sequence[Assigned], adaptive: bool) -> Assigned:
    """The layers most trials have targets for, at once: mean sparsity, and mean instrument, of trials that have all."""
    most = max((len(part.sample) for part in found), default=0)
    parts = [part for part in found if most and 2 * len(part.sample) >= most]
    columns = np.full((len(evidence), max(len(parts), 1)), np.nan)
    for place, part in enumerate(parts):
        columns[part.sample.rows, place] = part.instrument.values
    sparsity = np.mean([part.sparsity for part in parts], axis=0) if parts else np.full(len(evidence), np.nan)
    sample = draw(evidence, gap, sparsity, full_length(evidence) & np.isfinite(columns).all(axis=1))
    return Assigned(
        sample=sample,
        instrument=Instrument(values=columns[sample.rows].mean(axis=1)),
        held=held_constant(evidence, sample, (), adaptive=adaptive),
        sparsity=sparsity,
    )


def held_constant(evidence: Evidence, sample: Sample, targets: Sequence[str], *, adaptive: bool) -> Floats:
    """Columns the comparison holds constant, ``[m, k]``: arms, searched data, log strengths, some layers' ``targets``.

    Assigned at random they are not needed; they only make estimates sharper, and are left out where there are fewer
    than five configurations to a column. A sampler that learns makes targets depend on the other parameters it draws
    and on time, so then every searched number and the trial's number have to stay.
    """
    arms = indicators(sample.arms)
    parameters = {name: evidence.trials[name] for name in evidence.trials if str(name).startswith("parameter/")}
    strengths = [_number(v.iloc[sample.rows]) for n, v in parameters.items() if str(n).endswith("strength")]
    others = [np.asarray(evidence.targets[name][sample.rows], dtype=np.float64) for name in targets]
    if adaptive:
        rest = [v for n, v in parameters.items() if "/targets/" not in str(n) and not str(n).endswith("strength")]
        others += [_number(values.iloc[sample.rows]) for values in rest]
        others.append(sample.rows * 0.0 + evidence.trials["trial"].to_numpy()[sample.rows])
    data = indicators(conditions(evidence).codes[sample.rows])[:, 1:].T
    columns = arms
    for values in [*data, *strengths, *others]:
        wider = np.column_stack([columns, _centred(sample, values)])
        if adaptive or 5 * wider.shape[1] <= sample.configuration_count:
            columns = wider
    return columns


def _number(values: pd.Series[Any]) -> Floats:
    """Numbers ``[m]``, as logarithms of their sizes unless one is zero; NaN where there is none.

    Strengths, rates and sizes act by factors; shares, which do not, are hardly bent by a logarithm over their range.
    """
    found = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    size = np.abs(np.where(np.isfinite(found), found, 0.0))
    known = np.isfinite(found)
    if (size[known] == 0).any():
        return np.where(known, found, np.nan)
    return np.where(known, np.log(np.where(size > 0, size, 1.0)), np.nan)


def _centred(sample: Sample, values: Floats) -> Floats:
    """Values minus their arm's mean, 0 where there is none."""
    known = np.isfinite(values)
    arms = len(sample.names)
    count = np.bincount(sample.arms[known], minlength=arms)
    means = np.bincount(sample.arms[known], values[known], minlength=arms) / np.maximum(count, 1)
    return np.where(known, np.where(known, values, 0.0) - means[sample.arms], 0.0)
