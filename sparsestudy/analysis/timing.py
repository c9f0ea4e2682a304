"""Does sparsity rise before the loss does? Leads, hazard ratios and detectors, layer by layer and over all layers.

Two kinds of onset are told apart. Leads compare onsets located afterwards in the whole curves, which is where they are
located best. Hazard ratios and detectors use alarms that saw only the past of their run, which is what one would have
had; an alarm comes some epochs after its onset, so that a ratio of alarms is nearer to 1 than one of onsets would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from sparsestudy.analysis.alarms import rise_alarm
from sparsestudy.analysis.detectors import Detector, detectors
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.hazard import Hazard, hazard_of_level, hazard_of_rise
from sparsestudy.analysis.lead import LeadTime, lead_time
from sparsestudy.analysis.onset import Onsets

Floats: TypeAlias = NDArray[np.float64]
Result = TypeVar("Result", LeadTime, Hazard)
POOLED = "mean of layers"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When sparsity rises against when overfitting begins.

    Attributes:
        leads: By layer, and for the mean of all layers (`POOLED`).
        after_rise: Hazard ratio of overfitting after an alarm of rising sparsity, likewise.
        by_level: Hazard ratio of overfitting for 0.1 more sparsity, likewise.
        detectors: Rules that would have told in real time.
        reason: Why there is nothing; empty otherwise.
    """

    leads: dict[str, LeadTime]
    after_rise: dict[str, Hazard]
    by_level: dict[str, Hazard]
    detectors: tuple[Detector, ...]
    reason: str = ""


def layer_series(evidence: Evidence) -> dict[str, Floats]:
    """Sparsity by layer, and its mean over those layers that have a value (`POOLED`); ``[n, E]`` each.

    It is of `Evidence.main`; without any layer the dictionary is empty. With a single layer there is no mean.
    """
    found = {
        signal.layer: evidence.series(signal).astype(np.float64)
        for signal in (Signal(kind="activations", layer=layer, measure=evidence.main) for layer in evidence.layers)
        if signal in evidence.signals
    }
    if len(found) < 2:
        return found
    values = np.stack(list(found.values()))
    measured = np.isfinite(values)
    count = measured.sum(axis=0)
    total = np.where(measured, values, 0.0).sum(axis=0)
    return {**found, POOLED: np.where(count > 0, total / np.maximum(count, 1), np.nan)}


def timing(evidence: Evidence, overfitting: Onsets, sparsity: Mapping[str, Onsets]) -> Timing:
    """All that can be said about time.

    Args:
        evidence: The trials.
        overfitting: Onsets of overfitting ``[n]``, such as of `sparsestudy.analysis.onset.overfitting_onset`.
        sparsity: Onsets of a rise ``[n]`` of each of `layer_series`, by the same names.
    """
    series = layer_series(evidence)
    if not len(evidence) or not series:
        return Timing(leads={}, after_rise={}, by_level={}, detectors=(), reason=f"{evidence.main} was not recorded")
    configuration = evidence.trials["configuration"].to_numpy()
    arm = pd.factorize(evidence.trials["arm"])[0].astype(np.int64)
    alarms = {name: rise_alarm(values) for name, values in series.items()}
    return Timing(
        leads=adjusted({name: lead_time(overfitting, sparsity[name], configuration) for name in series}),
        after_rise=adjusted({n: hazard_of_rise(overfitting, alarms[n], configuration, arm) for n in series}),
        by_level=adjusted({n: hazard_of_level(overfitting, series[n], configuration, arm) for n in series}),
        detectors=detectors(evidence, overfitting, alarms),
    )


def adjusted(results: dict[str, Result]) -> dict[str, Result]:
    """With p values corrected over the layers (Benjamini and Hochberg 1995, J. of the Royal Statistical Society B 57).

    The mean of all layers is one question of its own and keeps its p value.
    """
    tested = [(name, r.p_value) for name, r in results.items() if r.p_value is not None and name != POOLED]
    if not tested:
        return results
    corrected = multipletests([p for _, p in tested], method="fdr_bh")[1]
    by_name = {name: float(p) for (name, _), p in zip(tested, corrected, strict=True)}
    return {name: replace(r, p_adjusted=by_name[name]) if name in by_name else r for name, r in results.items()}
