"""The relation between sparsity and overfitting: everything that is fitted, in one object, and as plain data.

Nothing here estimates; it asks the modules that do, and puts what they say beside each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sparsestudy.analysis.cause import Cause, cause
from sparsestudy.analysis.claims import by_arm, cause_verdict, density_verdict, level_verdict, timing_verdict
from sparsestudy.analysis.corrections import ArmSensitivity, EffectiveSample, effective_sample, select, without_each_arm
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.granulated import Granulated, granulated
from sparsestudy.analysis.level import Level, level, within_arms
from sparsestudy.analysis.onset import overfitting_onset, sparsity_onset
from sparsestudy.analysis.ranks import RankCorrelation, rank_correlations
from sparsestudy.analysis.robust import SignError, sign_errors
from sparsestudy.analysis.sample import draw, full_length, pooled, sparsities
from sparsestudy.analysis.timing import Timing, layer_series, timing
from sparsestudy.analysis.verdict import Verdict, arm_verdicts

FORMAT = 1
MANY_SIGNALS, MANY_REASONS = 20, 5


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each searched parameter matters for the first objective, by arm.

    Attributes:
        shares: By arm, the share of each of its parameters, in [0, 1]; they sum to 1. ``all`` stands for all trials,
            with the parameters that all arms have and the choice of the arm itself.
        reasons: By arm, why there are no shares.
    """

    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


EVERY = "all"
"""All trials together, where arms are listed."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """What was fitted.

    Attributes:
        studies: Names of the studies.
        question: Of the first of them.
        trials: Trials used.
        configurations: Distinct configurations among them.
        arms: Arms among them.
        excluded: Trials left out, and why.
        sample: What the trials are worth, replicates counted as such.
        ranks: Rank correlations of every signal with the gap.
        granulated: The same with other hyperparameters held fixed; with many signals, of the main measure only.
        sign_errors: How often a signal orders pairs of trials wrongly, on average and in the worst environment.
        level: The gap on the sparsity of each layer.
        cause: The gap on assigned sparsity.
        timing: Onsets against each other.
        sensitivity: Slope of the gap on pooled sparsity without each arm.
        verdicts: The card.
        importance: Of the searched parameters; empty where they are not known, as of runs from elsewhere.
        reason: Why nothing can be said at all; empty otherwise.
    """

    studies: tuple[str, ...]
    question: str
    trials: int
    configurations: int
    arms: tuple[str, ...]
    excluded: tuple[dict[str, Any], ...]
    sample: EffectiveSample
    ranks: tuple[RankCorrelation, ...]
    granulated: tuple[Granulated, ...]
    sign_errors: tuple[SignError, ...]
    level: Level
    cause: Cause
    timing: Timing
    sensitivity: ArmSensitivity
    verdicts: tuple[Verdict, ...]
    importance: Importance = field(default_factory=Importance)
    reason: str = ""


def relate(
    evidence: Evidence,
    methods: Mapping[str, frozenset[str]],
    *,
    sampler: str | None = None,
    question: str = "",
    accuracy: str = "accuracy",
    images: Mapping[str, str] | None = None,
) -> Relation:
    """Fit everything.

    Args:
        evidence: All trials, of any number.
        methods: Of each arm; see `sparsestudy.analysis.verdict.methods_of_arms`.
        sampler: What drew the parameters.
        question: What the study was to find out.
        accuracy: What the score is called.
        images: The image data of each study that has such, by the study's name.
    """
    # Thousands of small problems, which the threads of a linear algebra library only slow down; and numbers that
    # become none on the way to an estimate, which then is None with its reason.
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        return _relate(evidence, methods, sampler, question, accuracy, images or {})


def _relate(
    evidence: Evidence,
    methods: Mapping[str, frozenset[str]],
    sampler: str | None,
    question: str,
    accuracy: str,
    images: Mapping[str, str],
) -> Relation:
    overfitting = overfitting_onset(evidence.curves["validation/loss"])
    rises = {layer: sparsity_onset(series) for layer, series in layer_series(evidence).items()}
    timed = timing(evidence, overfitting, rises)
    caused = cause(evidence, sampler=sampler)
    fitted = level(evidence)
    gap = np.asarray(evidence.gap(), dtype=np.float64)
    return Relation(
        studies=tuple(dict.fromkeys(evidence.trials["study"])),
        question=question,
        trials=len(evidence),
        configurations=int(evidence.trials["configuration"].nunique()),
        arms=tuple(dict.fromkeys(evidence.trials["arm"])),
        excluded=tuple({str(k): v for k, v in row.items()} for row in evidence.excluded.to_dict("records")),
        sample=effective_sample(gap, evidence.trials["configuration"].to_numpy()),
        ranks=tuple(rank_correlations(evidence)),
        granulated=granulated(_headline_signals(evidence)),
        sign_errors=tuple(sign_errors(evidence)),
        level=fitted,
        cause=caused,
        timing=timed,
        sensitivity=without_each_arm(evidence, partial(_pooled_slope, ratio=fitted.pooled.spread.ratio)),
        verdicts=(
            timing_verdict(timed, by_arm(evidence)),
            *arm_verdicts(evidence, methods, accuracy=accuracy),
            density_verdict(evidence, accuracy, images),
            level_verdict(level(evidence, "accuracy", shapes=False), accuracy, by_arm(evidence)),
            cause_verdict(caused, by_arm(select(evidence, _targeted(evidence)))),
        ),
        reason="" if len(evidence) else _nothing(evidence),
    )


def _targeted(evidence: Evidence) -> NDArray[np.bool_]:
    """Trials with a target for some layer, ``[n]``."""
    found = np.zeros(len(evidence), dtype=np.bool_)
    for targets in evidence.targets.values():
        found |= np.isfinite(targets)
    return found


def _nothing(evidence: Evidence) -> str:
    """Why there is no trial to learn from, the commonest reasons first."""
    reasons = Counter(evidence.excluded["reason"].astype(str))
    if not reasons:
        return "there is no trial yet"
    told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(MANY_REASONS))
    more = len(reasons) - MANY_REASONS
    return f"no trial can be used: {told}" + (f"; and {more} other reasons" if more > 0 else "")


def _headline_signals(evidence: Evidence) -> Evidence:
    """The main measure alone where many signals were recorded: each axis of the search is looked at for each signal."""
    if len(evidence.signals) <= MANY_SIGNALS:
        return evidence
    places = [i for i, s in enumerate(evidence.signals) if s.measure == evidence.main][:MANY_SIGNALS]
    kept = tuple(evidence.signals[i] for i in places)
    return replace(evidence, signals=kept, values=evidence.values[:, :, places])


def _pooled_slope(evidence: Evidence, ratio: float) -> float | None:
    """As `level` has it, with the weights that all arms together led to."""
    by_layer = sparsities(evidence)
    if not by_layer:
        return None
    gap = np.asarray(evidence.gap(), dtype=np.float64)
    return within_arms(draw(evidence, gap, pooled(by_layer), full_length(evidence)), ratio).estimate


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers of numpy as what JSON knows; a number that is none becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | frozenset) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(relation: Relation) -> dict[str, Any]:
    """What ``relation.json`` holds; ``studies/relation.schema.json`` describes it."""
    return {"format": FORMAT, "sparsestudy": version("sparsestudy"), **plain(relation)}
