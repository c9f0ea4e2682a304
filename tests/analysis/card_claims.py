"""What the card of verdicts says of every simulated world, claim by claim; `benchmarks/coverage.py` counts over many.

The truth of a claim is the effect in a study of two thousand configurations of the same world, or what was planted
where that is a number: no relation, or a slope. A verdict is wrong if it supports what is not so, or refutes an effect
that is as large as one worth having.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from sparsestudy.analysis.alarms import rise_alarm
from sparsestudy.analysis.claims import density_verdict, level_verdict, timing_verdict
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.hazard import hazard_of_rise
from sparsestudy.analysis.lead import LeadTime, lead_time
from sparsestudy.analysis.level import Level, level, within_arms
from sparsestudy.analysis.onset import overfitting_onset, sparsity_onset
from sparsestudy.analysis.sample import draw, full_length, pooled, sparsities
from sparsestudy.analysis.spread import spread_of
from sparsestudy.analysis.timing import Timing, adjusted, layer_series
from sparsestudy.analysis.verdict import WORTH_ACCURACY, WORTH_LOSS, Verdict, arm_verdicts
from tests.analysis.worlds import WORLDS, Truth, World, simulate

Outcome = dict[str, bool | float | None]
IMAGES = {"one": "digits", "two": "svhn"}
ARMS = ("penalty against control", "penalty against dropout", "penalty against batch norm", "excess loss")
METHODS = {"none": frozenset(), "perplexity": frozenset({"perplexity"}), "dropout": frozenset({"dropout"})}


def card_run(seed: int) -> Outcome:
    """Verdicts on studies of 20 configurations with three replicates, claim by claim."""
    return {key: value for world in WORLDS for key, value in card_study(seed, world).items()}


def card_study(seed: int, world: World) -> Outcome:
    found: Outcome = {}
    for claim, verdict in over_all(simulate(world, seed)[0]).items():
        worth = WORTH_LOSS if claim == "excess loss" else WORTH_ACCURACY
        found |= told(f"{world}: {claim}", verdict, truths(world)[claim], worth)
    return found


def told(name: str, verdict: Verdict, effect: float | None, worth: float, *, either: bool = False) -> Outcome:
    """One claim of one study; ``either`` where an effect of any direction supports it."""
    if effect is None:
        # An arm that the world does not have.
        return {f"{name}, speaks of arms that are not there: wrong verdict": verdict.status != "undecided"}
    # Where both signs support a claim, an interval on the other side of zero than the effect supports what is not so.
    against = verdict.low is not None and (verdict.low > 0) != (effect > 0)
    false = effect == 0 or (either and against) or (not either and effect < 0)
    wrong = {"supported": false, "refuted": (abs(effect) if either else effect) >= worth, "undecided": False}
    covers = None if verdict.low is None or verdict.high is None else verdict.low <= effect <= verdict.high
    return {
        f"{name}: covers": covers,
        f"{name}: wrong verdict": bool(wrong[verdict.status]),
        f"{name}: share decided": verdict.status != "undecided",
    }


def over_all(evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts on the score and on the level; the trials are of two studies of different image data."""
    half = evidence.trials["configuration"] % 2
    alone = mean_layer(evidence)
    twofold = replace(alone, trials=evidence.trials.assign(study=np.where(half == 0, "one", "two")))
    arms = arm_verdicts(evidence, METHODS, accuracy="accuracy")
    return {
        "denser activations, smaller gap": level_verdict(pooled_level(alone), "accuracy"),
        "image tasks prefer denser activations": density_verdict(twofold, "accuracy", IMAGES),
        **dict(zip(ARMS, arms, strict=True)),
    }


def mean_layer(evidence: Evidence) -> Evidence:
    """The mean of all layers as the only one, which is what the card speaks of, so that no other has to be fitted."""
    signal = Signal(kind="activations", layer="mean", measure=evidence.main)
    places = [i for i, s in enumerate(evidence.signals) if s.measure == evidence.main]
    mean = evidence.values[:, :, places].mean(axis=2, keepdims=True)
    return replace(evidence, signals=(signal,), values=mean, targets={})


def pooled_level(evidence: Evidence) -> Level:
    """What `level` says of the mean of layers, each model fitted once."""
    nothing = level(replace(evidence, signals=(), values=evidence.values[:, :, :0]), "accuracy", shapes=False)
    gap = np.asarray(evidence.gap("accuracy"), dtype=np.float64)
    sample = draw(evidence, gap, pooled(sparsities(evidence)), full_length(evidence))
    within = within_arms(sample, spread_of(sample).ratio)
    return replace(nothing, pooled=replace(nothing.pooled, within=within, configurations=sample.configuration_count))


@cache
def truths(world: World) -> dict[str, float | None]:
    """Effect of each claim in a large study; exactly none where nothing in the networks has to do with the gap."""
    effects = {name: v.effect for name, v in over_all(simulate(world, 10**6, configurations=2000)[0]).items()}
    if world == "null":
        return {name: None if effect is None else 0.0 for name, effect in effects.items()}
    if world == "censored":
        return effects | dict.fromkeys(list(effects)[:2], 0.0)
    return effects


def onsets_run(seed: int) -> Outcome:
    """Onsets located in the curves of 20 configurations with three replicates: order, leads, verdict."""
    return {key: value for world in WORLDS for key, value in onsets_study(seed, world).items()}


def onsets_study(seed: int, world: World, **shape: int) -> Outcome:
    evidence, truth = simulate(world, seed, **shape)
    series, configuration = layer_series(evidence), evidence.trials["configuration"].to_numpy()
    late = overfitting_onset(evidence.curves["validation/loss"])
    leads = adjusted({n: lead_time(late, sparsity_onset(s), configuration, draws=100) for n, s in series.items()})
    verdict = timing_verdict(Timing(leads=leads, after_rise={}, by_level={}, detectors=()))
    found = _leads(world, leads["conv1"], truth)
    # The loss follows the rise of sparsity in every world but one; there neither comes first.
    wrong = "supported" if world == "null" else "refuted"
    found[f"{world}: sparsity rises first: wrong verdict"] = verdict.status == wrong
    found[f"{world}: sparsity rises first: share supported"] = verdict.status == "supported"
    if world == "null":
        p = [lead.p_adjusted for lead in leads.values() if lead.p_adjusted is not None]
        name = "null: order against strangers, any of three layers, corrected: false positive"
        found[name] = min(p, default=1.0) < 0.05
    return found


def _leads(world: World, lead: LeadTime, truth: Truth) -> Outcome:
    """The order and the median lead of one layer whose sparsity rises for all alike."""
    found: Outcome = {}
    p, usual, together = lead.p_value, lead.by_chance, lead.together.p
    if world == "null":
        found["null: order against strangers, conv1: false positive"] = None if p is None else p < 0.05
        found["null: onsets go together, conv1: false positive"] = None if together is None else together < 0.05
        inside = None if usual is None or lead.share_low is None else lead.share_low <= usual <= lead.share_high
        found["null: share of sparsity first, held against strangers: covers"] = inside
    said = lead.low is not None or lead.high is not None
    inside = (lead.low is None or lead.low <= truth.lead) and (lead.high is None or truth.lead <= lead.high)
    found[f"{world}: median lead, onsets located: covers"] = inside if said else None
    found[f"{world}: median lead, onsets located: error in epochs"] = (
        None if lead.median is None else lead.median - truth.lead
    )
    return found


def hazards_run(seed: int) -> Outcome:
    """Hazard ratios of overfitting after an alarm of rising sparsity, of 20 configurations with three replicates."""
    return {key: value for world in WORLDS for key, value in hazards_study(seed, world).items()}


def hazards_study(seed: int, world: World) -> Outcome:
    evidence, _ = simulate(world, seed)
    series, configuration = layer_series(evidence), evidence.trials["configuration"].to_numpy()
    late = overfitting_onset(evidence.curves["validation/loss"])
    arm = pd.factorize(evidence.trials["arm"])[0].astype(np.int64)
    layers = evidence.layers if world == "null" else evidence.layers[:1]
    risen = adjusted({n: hazard_of_rise(late, rise_alarm(series[n]), configuration, arm) for n in layers})
    low, high = risen["conv1"].low, risen["conv1"].high
    name = f"{world}: hazard ratio after a rise, conv1"
    if world != "null":
        # What brings the loss up after it is the rise itself, not the alarm, so that only the side is known.
        return {
            f"{name}: wrong sign": None if high is None else high < 1,
            f"{name}: share above 1": None if low is None else low > 1,
        }
    p = [r.p_adjusted for r in risen.values() if r.p_adjusted is not None]
    return {
        "null: hazard ratio after a rise, any of three layers, corrected: false positive": min(p, default=1.0) < 0.05,
        f"{name}: covers": None if low is None or high is None else low <= 1 <= high,
    }
