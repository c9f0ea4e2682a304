"""The relation as a whole: every simulated world gives plain data, small or odd studies give reasons, not errors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparsestudy.analysis.claims import timing_verdict
from sparsestudy.analysis.corrections import select
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.lead import lead_time
from sparsestudy.analysis.onset import Onsets
from sparsestudy.analysis.relation import relate, to_json
from sparsestudy.analysis.timing import Timing
from sparsestudy.analysis.verdict import arm_verdicts, by_configuration, compare
from tests.analysis.worlds import simulate

WORLDS = ("causal", "null", "simpson", "confounded", "heteroscedastic", "censored")


def methods_of(evidence: Evidence) -> dict[str, frozenset[str]]:
    arms = list(dict.fromkeys(evidence.trials["arm"]))
    return {arm: frozenset({"perplexity"}) if place else frozenset() for place, arm in enumerate(arms)}


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_gives_plain_data(world: str) -> None:
    evidence, _ = simulate(world, 1, configurations=12, replicates=2, epochs=30, layers=2)
    relation = relate(evidence, methods_of(evidence), sampler="random")
    found = json.loads(json.dumps(to_json(relation), allow_nan=False))
    assert found["trials"] == len(evidence) == 24
    assert found["configurations"] == 12
    assert {verdict["status"] for verdict in found["verdicts"]} <= {"supported", "refuted", "undecided"}
    assert len(found["ranks"]) == 2 * len(evidence.signals)
    assert set(found["level"]["layers"]) == set(evidence.layers)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_tiny_studies_say_what_cannot_be_said(kept: int) -> None:
    evidence, _ = simulate("causal", 0, configurations=12, replicates=1, epochs=20, layers=2)
    tiny = select(evidence, np.arange(len(evidence)) < kept)
    found = to_json(relate(tiny, methods_of(tiny)))
    assert json.dumps(found, allow_nan=False)
    assert {verdict["status"] for verdict in found["verdicts"]} == {"undecided"}
    assert all(verdict["said"] for verdict in found["verdicts"])


def test_the_slope_of_the_causal_world_has_the_planted_sign() -> None:
    evidence, truth = simulate("causal", 3, configurations=40, replicates=2, epochs=30, layers=2)
    relation = relate(evidence, methods_of(evidence), sampler="random")
    slope = relation.level.pooled.within
    assert slope.estimate is not None
    assert np.sign(slope.estimate) == np.sign(sum(truth.betas))
    assert relation.sensitivity.sign_holds is not False
    assert relation.sensitivity.estimate == pytest.approx(slope.estimate)  # the slope that the page shows with all arms


def scores(evidence: Evidence, values: dict[int, float]) -> np.ndarray:
    return np.array([values[c] for c in evidence.trials["configuration"]])


def test_arms_are_compared_by_configuration() -> None:
    evidence, _ = simulate("null", 0, configurations=8, replicates=3, epochs=12, layers=1)
    trials = evidence.trials.assign(arm=np.where(evidence.trials["configuration"] < 4, "a", "b"))
    evidence = replace(evidence, trials=trials)
    values = scores(evidence, {c: 1.0 * c for c in range(8)})
    assert sorted(by_configuration(evidence, values, ["a"])) == [0, 1, 2, 3]
    verdict = compare(
        "b is better.", evidence, values, {"b": ["b"], "a": ["a"]}, worth=0.1, unit="points", names=("b", "a")
    )
    # Welch by hand: 5.5 - 1.5, error sqrt(2 * (5 / 3) / 4), t(0.975, 6) = 2.44691.
    assert verdict.effect == pytest.approx(4.0)
    assert (verdict.low, verdict.high) == pytest.approx((4 - 2.44691 * 0.912871, 4 + 2.44691 * 0.912871), rel=1e-5)
    assert (verdict.status, verdict.configurations, verdict.further) == ("supported", 8, {})
    other = compare(
        "a is better.", evidence, values, {"b": ["b"], "a": ["a"]}, worth=0.1, unit="points", names=("a", "b")
    )
    assert other.status == "refuted"


def test_undecided_claims_say_how_many_configurations_would_settle_them() -> None:
    evidence, _ = simulate("null", 0, configurations=8, replicates=1, epochs=12, layers=1)
    trials = evidence.trials.assign(arm=np.where(evidence.trials["configuration"] < 4, "none", "p"))
    evidence = replace(evidence, trials=trials)
    values = scores(evidence, dict(enumerate([0.0, 1, 2, 3, 0.5, 1.5, 2.5, 3.5])))
    found = compare("p is better.", evidence, values, {"p": ["p"], "c": ["none"]}, worth=0.1, unit="", names=("p", "c"))
    # Effect 0.5, error 0.912871: 4 * (0.912871 / (0.5 / 2.80159)) ** 2 = 104.7 configurations an arm, which Student's
    # t with 207.4 degrees of freedom, 1.9715 + 0.8434 instead of 2.80159, makes 105.7; 4 are there.
    assert (found.status, found.further) == ("undecided", {"p": 102, "none": 102})


def test_claims_about_arms_that_are_not_there_are_undecided() -> None:
    evidence, _ = simulate("null", 0, configurations=4, replicates=1, epochs=12, layers=1)
    found = arm_verdicts(evidence, {"x": frozenset()}, accuracy="accuracy")
    assert [verdict.status for verdict in found] == ["undecided"] * 4
    assert all("no usable trial" in verdict.said for verdict in found)


def test_a_single_configuration_varies_by_its_replicates() -> None:
    evidence, _ = simulate("null", 0, configurations=5, replicates=4, epochs=12, layers=1)
    trials = evidence.trials.assign(arm=np.where(evidence.trials["configuration"] < 1, "none", "p"))
    evidence = replace(evidence, trials=trials)
    values = np.arange(20.0)
    alone = evidence.trials["arm"].to_numpy() == "none"
    assert sorted(by_configuration(evidence, values, ["none"])) == sorted(values[alone])
    assert len(by_configuration(evidence, values, ["p"])) == 4
    found = compare("p is better.", evidence, values, {"p": ["p"], "c": ["none"]}, worth=0.1, unit="", names=("p", "c"))
    assert found.low is not None
    assert found.said.endswith("over 4 configurations and 4 replicates of one configuration.")


def test_an_order_that_the_clock_explains_is_not_support() -> None:
    evidence, _ = simulate("null", 0, configurations=12, replicates=1, epochs=12, layers=1)
    # Sparsity always in epoch 3, overfitting always in epoch 8: first in every run, and so among strangers.
    onsets = [Onsets(epoch=np.full(12, epoch), censored=np.zeros(12, dtype=bool)) for epoch in (8, 3)]
    lead = lead_time(onsets[0], onsets[1], evidence.trials["configuration"].to_numpy())
    assert (lead.votes_first, lead.by_chance) == (12, 1.0)
    found = timing_verdict(Timing(leads={"mean of layers": lead}, after_rise={}, by_level={}, detectors=()))
    assert found.status != "supported"
    assert "12 of 12 configurations" in found.said
