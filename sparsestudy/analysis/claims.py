"""Verdicts on what goes with sparsity over all trials: its timing, its level, its assigned targets, and the score.

`sparsestudy.analysis.verdict` has those that compare arms, and says what supported, refuted and undecided mean. The
claim about time has two halves that both have to hold: sparsity is first in more than half of the configurations, and
the onsets go together, as those of strangers do not. Each errs in 5 % of studies at most, so both together do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

from sparsestudy.analysis.cause import WEAK, Cause, LayerCause
from sparsestudy.analysis.corrections import select
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.lead import LeadTime
from sparsestudy.analysis.level import Level, within_arms
from sparsestudy.analysis.sample import draw, full_length, pooled, sparsities
from sparsestudy.analysis.spread import spread_of
from sparsestudy.analysis.timing import POOLED, Timing
from sparsestudy.analysis.verdict import POWER, WORTH_ACCURACY, WORTH_LOSS, Status, Verdict, decide

WORTH_SHARE, WORTH_TOGETHER = 0.1, 0.3
"""Smallest share above one half, and smallest rank correlation of onsets, worth having."""
CERTAIN = 0.05
"""Level of the test whether onsets go together."""


def by_arm(evidence: Evidence) -> dict[str, int]:
    """Configurations of each arm."""
    found = evidence.trials.groupby("arm", sort=False)["configuration"].nunique()
    return {str(arm): int(count) for arm, count in found.items()}


def further_of(arms: Mapping[str, int], factor: float | None) -> dict[str, int]:
    """Further configurations of each arm if their number has to grow by a factor; empty if that is unknown.

    Example:
        >>> further_of({"none": 4, "dropout": 8}, 2.5), further_of({"none": 4}, None)
        ({'none': 6, 'dropout': 12}, {})
    """
    if factor is None or not np.isfinite(factor):
        return {}
    return {arm: max(1, int(np.ceil(count * (factor - 1) - 1e-9))) for arm, count in arms.items()}


def growth(found: Estimate, worth: float) -> float | None:
    """Factor by which the configurations must grow for the estimate, or one worth having, to be told from zero.

    Example:
        >>> found = Estimate(estimate=0.1, low=-0.096, high=0.296, freedom=1e9)
        >>> round(growth(found, 0.01), 2)  # error 0.1, wanted 0.1 / 2.80
        7.85
    """
    if found.estimate is None or found.low is None or found.high is None or found.freedom is None:
        return None
    error = (found.high - found.low) / 2 / float(stats.t.ppf(0.975, found.freedom))
    return (error * float(POWER) / max(abs(found.estimate), worth)) ** 2


def timing_verdict(timed: Timing, arms: Mapping[str, int] | None = None) -> Verdict:
    """Verdict on the claim that sparsity rises before the loss does, and not by the clock alone.

    Args:
        timed: What was found.
        arms: Configurations of each arm; see `by_arm`.
    """
    lead = timed.leads.get(POOLED) or next(iter(timed.leads.values()), None)
    claim = "The sparsity of the layers rises before the validation loss does."
    if lead is None or lead.share is None:
        reason = timed.reason if lead is None else lead.reason
        return _unsaid(claim, reason)
    low, high = (None if v is None else v - 0.5 for v in (lead.share_low, lead.share_high))
    linked = lead.together.p is not None and lead.together.p < CERTAIN and (lead.together.estimate or 0.0) > 0
    status = decide(low, high, 0.0)
    if status == "supported" and not linked:
        status = "undecided"
    votes = lead.votes_first + lead.votes_after
    return Verdict(
        claim=claim, status=status, effect=lead.share - 0.5, low=low, high=high,
        unit="share of configurations above one half", configurations=votes, said=_timing_said(lead, linked),
        further=further_of(arms or {}, _timing_growth(lead)) if status == "undecided" else {},
    )  # fmt: skip


def _timing_said(lead: LeadTime, linked: bool) -> str:
    votes = lead.votes_first + lead.votes_after
    said = f"Sparsity was first in {lead.votes_first} of {votes} configurations in which both onsets were seen"
    if lead.by_chance is not None:
        said += f"; onsets of different configurations would be so in {lead.by_chance:.0%}"
    said += "."
    if lead.together.p is not None and lead.together.estimate is not None:
        said += f" The two onsets {'go' if linked else 'do not clearly go'} together"
        said += f" (rank correlation {lead.together.estimate:+.2f}, p = {lead.together.p:.2g})"
        said += "." if linked else ", so that the clock alone may have put them in order."
    if lead.median is not None:
        said += f" Median lead {lead.median:+.1f} epochs"
        said += "" if lead.low is None or lead.high is None else f" ({lead.low:+.1f} to {lead.high:+.1f})"
        said += ", beside the two or three by which onsets may be located wrongly."
    return said


def _timing_growth(lead: LeadTime) -> float | None:
    """Factor for the share to leave one half, and for the correlation to leave zero (by Fisher's z), in most studies.

    Both count configurations in which both onsets were seen, of which larger studies have as many in proportion.
    """
    votes = lead.votes_first + lead.votes_after
    if not votes or lead.share is None:
        return None
    wanted = float(POWER) / max(abs(lead.share - 0.5), WORTH_SHARE)
    shares = wanted**2 * max(lead.share * (1 - lead.share), 0.05)
    size = float(np.clip(abs(lead.together.estimate or 0.0), WORTH_TOGETHER, 0.99))
    correlation = 3 + (float(POWER) / np.arctanh(size)) ** 2
    return float(max(shares, correlation)) / votes


def level_verdict(fitted: Level, accuracy: str, arms: Mapping[str, int] | None = None) -> Verdict:
    """Verdict on the claim that denser activations go with a smaller gap, within arms."""
    slope = fitted.pooled.within
    claim = f"Denser activations go with a smaller gap of {accuracy}."
    if slope.estimate is None:
        return _unsaid(claim, slope.reason)
    status = decide(slope.low, slope.high, WORTH_ACCURACY)
    said = f"For 0.1 more sparsity, within arms, the gap changes by {_with_interval(slope)}."
    return Verdict(
        claim=claim, status=status, effect=slope.estimate, low=slope.low, high=slope.high,
        unit=f"gap of {accuracy} per 0.1 sparsity", configurations=fitted.pooled.configurations, said=said,
        further=further_of(arms or {}, growth(slope, WORTH_ACCURACY)) if status == "undecided" else {},
    )  # fmt: skip


def density_verdict(evidence: Evidence, accuracy: str, images: Mapping[str, str]) -> Verdict:
    """Verdict on the claim of Khan and Stavness that image tasks prefer denser activations: the score on sparsity.

    One task cannot speak for image tasks; with a single one the effect is told and the claim stays undecided.

    Args:
        evidence: All trials.
        accuracy: What the score is called.
        images: The image data of each study that has such, by the study's name.
    """
    claim = "Image tasks prefer denser activations."
    kept = evidence.trials["study"].isin(list(images)).to_numpy()
    if not kept.any():
        return _unsaid(claim, "no study here is known to be about images")
    seen = select(evidence, kept)
    by_layer = sparsities(seen)
    if not by_layer:
        return _unsaid(claim, f"{evidence.main} was not recorded")
    score = np.asarray(seen.last(seen.curves["validation/accuracy"]), dtype=np.float64)
    sample = draw(seen, -score, pooled(by_layer), full_length(seen))
    slope = within_arms(sample, spread_of(sample).ratio)
    if slope.estimate is None:
        return _unsaid(claim, slope.reason)
    tasks = sorted({images[study] for study in seen.trials["study"]})
    status: Status = decide(slope.low, slope.high, WORTH_ACCURACY) if len(tasks) > 1 else "undecided"
    said = f"For 0.1 less sparsity, within arms, {accuracy} changes by {_with_interval(slope)} on {', '.join(tasks)}."
    if len(tasks) == 1:
        said += " One task does not speak for image tasks: pool it with studies of other image data."
    settle = status == "undecided" and len(tasks) > 1
    return Verdict(
        claim=claim, status=status, effect=slope.estimate, low=slope.low, high=slope.high,
        unit=f"{accuracy} per 0.1 less sparsity", configurations=sample.configuration_count, said=said,
        further=further_of(by_arm(seen), growth(slope, WORTH_ACCURACY)) if settle else {},
    )  # fmt: skip


def cause_verdict(found: Cause, arms: Mapping[str, int] | None = None) -> Verdict:
    """Verdict on the claim that sparsity, as assigned by targets, changes the gap, in either direction.

    Where targets move sparsity weakly (F below `cause.WEAK`) the interval is that of Anderson and Rubin.

    Args:
        found: Effects by assigned targets.
        arms: Configurations of each arm that has targets.
    """
    layer, claim = found.pooled, "Assigned sparsity changes the gap."
    if layer.effect.estimate is None or layer.f is None:
        return _unsaid(claim, layer.reason or layer.effect.reason)
    low, high = trusted(layer)
    status = decide_either(low, high, WORTH_LOSS)
    way = "Anderson and Rubin's, for the targets move sparsity weakly" if layer.weak else "two-stage least squares"
    said = f"For 0.1 more sparsity, by targets, the gap changes by {layer.effect.estimate:+.3g}"
    region = f"{low:+.3g} to {high:+.3g}" if low is not None else layer.anderson_rubin.words
    said += f" (95 % interval {region}; {way}), first-stage F {layer.f:.3g}; trials compared by their sparsity alone"
    said += " would say nothing." if layer.naive.estimate is None else f" would say {layer.naive.estimate:+.3g}."
    said += _layer_by_layer(found) if layer.weak else ""
    return Verdict(
        claim=claim, status=status, effect=layer.effect.estimate, low=low, high=high,
        unit=f"gap of {found.gap} per 0.1 sparsity", configurations=layer.configurations, said=said,
        further=further_of(arms or {}, _cause_growth(layer)) if status == "undecided" else {},
    )  # fmt: skip


def _layer_by_layer(found: Cause) -> str:
    """Where targets of different layers, drawn independently, hardly move their mean: what the layers say apart."""
    strong = {n: layer.effect for n, layer in found.layers.items() if not layer.weak and layer.effect.low is not None}
    if not strong:
        return ""
    told = ", ".join(f"{name} {_with_interval(effect)}" for name, effect in strong.items())
    return f" Layer by layer, where targets move it strongly, and not corrected for looking at {len(strong)}: {told}."


def trusted(layer: LayerCause) -> tuple[float | None, float | None]:
    """The interval of an effect to go by; None where it has no ends."""
    found = layer.anderson_rubin if layer.weak else layer.effect
    return found.low, found.high


def _cause_growth(layer: LayerCause) -> float | None:
    """Factor for the effect to leave zero and, with weak targets, for F to reach `cause.WEAK`, to which it grows."""
    factor = growth(layer.effect, WORTH_LOSS)
    if factor is None or not layer.f:
        return factor
    return max(factor, WEAK / layer.f)


def decide_either(low: float | None, high: float | None, worth: float) -> Status:
    """The status of a claim that the effect is not zero.

    Example:
        >>> decide_either(-0.4, -0.1, 0.05), decide_either(-0.01, 0.02, 0.05), decide_either(-0.1, 0.2, 0.05)
        ('supported', 'refuted', 'undecided')
    """
    if low is None or high is None:
        return "undecided"
    if low > 0 or high < 0:
        return "supported"
    return "refuted" if max(-low, high) < worth else "undecided"


def _unsaid(claim: str, reason: str) -> Verdict:
    said = f"It cannot be said: {reason}." if reason else "It cannot be said."
    return Verdict(
        claim=claim, status="undecided", effect=None, low=None, high=None, unit="", configurations=0, said=said
    )


def _with_interval(found: Estimate) -> str:
    text = f"{found.estimate:+.3g}"
    return text if found.low is None else f"{text} (95 % interval {found.low:+.3g} to {found.high:+.3g})"
