"""Instrumented effects, against closed forms, brute force, linearmodels and simulated studies of known truth."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from linearmodels.iv import IV2SLS

from sparsestudy.analysis.cause import cause
from sparsestudy.analysis.clustered import Design, contrast_effect
from sparsestudy.analysis.compliance import compliance
from sparsestudy.analysis.instrument import instrument
from sparsestudy.analysis.level import level
from sparsestudy.analysis.sample import draw
from tests.analysis.level_claims import cause_study, learned, learner_study, make
from tests.analysis.odd_studies import ODD, plain
from tests.analysis.worlds import simulate

SEEDS = range(40)


def study(seed, follow=0.5, trials=40, beta=0.8):
    """Half-obeyed targets, no trial without one, and a hidden cause of both sparsity and gap."""
    random = np.random.default_rng(seed)
    target, hidden = random.uniform(0.2, 0.8, trials), random.standard_normal(trials)
    sparsity = 0.5 + follow * (target - 0.5) + 0.05 * hidden + 0.03 * random.standard_normal(trials)
    gap = beta * sparsity - 0.1 * hidden + 0.05 * random.standard_normal(trials)
    return gap, sparsity, target


def test_two_targets_give_the_ratio_of_differences():
    # With a target drawn from two values the estimate is Wald's: difference of gaps over difference of sparsities.
    random = np.random.default_rng(0)
    high = np.arange(20) % 2 == 1
    sparsity = 0.4 + 0.2 * high + 0.02 * random.standard_normal(20)
    gap = 0.7 * sparsity + 0.05 * random.standard_normal(20)
    found = cause(make(gap, {"a": sparsity}, {"a": np.where(high, 0.7, 0.3)}), sampler="grid").layers["a"]
    ratio = (gap[high].mean() - gap[~high].mean()) / (sparsity[high].mean() - sparsity[~high].mean())
    assert found.effect.estimate == pytest.approx(0.1 * ratio, rel=1e-9)
    fit = sm.OLS(sparsity, sm.add_constant(high.astype(float))).fit(cov_type="HC2")
    assert found.f == pytest.approx(fit.tvalues[1] ** 2, rel=1e-9)
    assert found.form == "target"


def test_strengths_arms_and_other_targets_are_held_constant():
    evidence, _ = simulate("confounded", 3, configurations=120, replicates=2)
    found = cause(evidence, sampler="random").layers["conv1"]
    rows = np.flatnonzero(np.isfinite(evidence.targets["conv1"]))
    free = np.flatnonzero(np.isnan(evidence.targets["conv1"]))
    sparsity = evidence.values[:, -1, 0]
    kink = np.median(sparsity[free])
    strength = np.log(evidence.trials["parameter/perplexity/strength"].to_numpy()[rows])
    others = [evidence.targets[name][rows] for name in ("conv2", "conv3")]
    held = np.column_stack([np.ones(len(rows)), strength, *others])
    of = evidence.trials["configuration"].to_numpy()[rows]
    fit = IV2SLS(evidence.gap()[rows], held, sparsity[rows], np.minimum(evidence.targets["conv1"][rows], kink)).fit(
        cov_type="clustered", clusters=of
    )
    assert (found.form, found.kink) == ("up to", pytest.approx(kink))
    assert found.effect.estimate == pytest.approx(0.1 * fit.params["endog"], rel=1e-8)
    # The library's large-sample sandwich is a little smaller, and close with 60 configurations.
    margin = (found.effect.high - found.effect.low) / 2
    assert margin == pytest.approx(0.1 * 2.0 * fit.std_errors["endog"], rel=0.1)


@pytest.mark.parametrize(("seed", "follow"), [(0, 0.5), (1, 0.15), (1, 0.0), (3, 0.03), (5, 0.02)])
def test_region_is_what_the_test_does_not_reject(seed, follow):
    gap, sparsity, target = study(seed, follow)
    region = cause(make(gap, {"a": sparsity}, {"a": target}), sampler="random").layers["a"].anderson_rubin
    design = Design.of(np.column_stack([target, np.ones(40)]), range(40))
    effects = np.concatenate([-np.geomspace(1e3, 1e-3, 120), np.geomspace(1e-3, 1e3, 120)])
    kept = [contrast_effect(design, gap - b * sparsity, [1, 0]).p >= 0.05 for b in effects]
    assert [region.holds(0.1 * b) for b in effects] == kept
    assert region.p == pytest.approx(contrast_effect(design, gap, [1, 0]).p, rel=1e-9)
    assert ("unbounded" in region.words) == (region.low is None)


def test_regions_come_in_all_three_kinds():
    kinds = set()
    for seed in range(40):
        gap, sparsity, target = study(seed, 0.05)
        region = cause(make(gap, {"a": sparsity}, {"a": target}), sampler="random").layers["a"].anderson_rubin
        kinds.add("interval" if region.low is not None else "outside" if region.outside else "everything")
    assert kinds == {"interval", "outside", "everything"}


def test_weak_instruments_are_called_weak():
    weak, strong = (cause(make(g, {"a": x}, {"a": t}), sampler="random") for g, x, t in (study(1, 0.0), study(1)))
    assert weak.layers["a"].weak
    assert weak.layers["a"].f < 10
    assert any("hardly move a" in caveat for caveat in weak.caveats)
    assert not strong.layers["a"].weak
    assert not any("hardly move" in caveat for caveat in strong.caveats)


def test_instrument_ends_at_the_natural_level():
    targets, low = np.linspace(0.2, 0.8, 13), np.full(13, 0.3)
    free = np.array([0.5, 0.55, 0.6, 0.65, 0.7])
    denser = instrument(targets, low, free)
    assert (denser.form, denser.kink, denser.natural) == ("up to", 0.6, 0.6)
    np.testing.assert_array_equal(denser.values, np.minimum(targets, 0.6))
    sparser = instrument(targets, 0.9 + 0 * low, free - 0.2)
    assert (sparser.form, sparser.kink) == ("from", pytest.approx(0.4))
    np.testing.assert_array_equal(sparser.values, np.maximum(targets, sparser.kink))
    # Half of the targets stay different whatever trials without a target do.
    assert instrument(targets, low, free - 0.2).kink == pytest.approx(0.5)
    assert instrument(targets, low, free[:4]).form == "target"


def test_compliance_by_hand():
    targets = np.array([0.2, 0.2, 0.4, 0.4, 0.6, 0.6])
    achieved = np.array([0.22, 0.3, 0.4, 0.44, 0.5, 0.58])
    evidence = make(np.arange(6.0), {"a": achieved}, {"a": targets})
    found = compliance(draw(evidence, evidence.gap(), achieved, np.ones(6, dtype=bool)), targets)
    assert found.slope.estimate == pytest.approx(np.polyfit(targets, achieved, 1)[0])
    assert (found.attained, found.below, found.above) == pytest.approx((3 / 6, 1 / 6, 2 / 6))
    assert found.region == pytest.approx((0.22 + 0.25 * 0.08, 0.58 - 0.25 * 0.08))
    assert [(b.low, b.high, b.trials) for b in found.bins] == [(0.2, 0.2, 2), (0.4, 0.4, 2), (0.6, 0.6, 2)]
    assert [b.achieved for b in found.bins] == pytest.approx([0.26, 0.42, 0.54])
    assert [b.attained for b in found.bins] == [0.5, 0.5, 0.5]
    evidence, _ = simulate("causal", 0)
    whole = cause(evidence, sampler="random").compliance["conv1"]
    assert sum(b.trials for b in whole.bins) == whole.trials == 60
    assert whole.attained + whole.below + whole.above == pytest.approx(1)


def test_other_layers_that_move_along_are_named():
    gap, sparsity, target = study(2)
    random = np.random.default_rng(0)
    layers = {"a": sparsity, "b": 0.5 * sparsity + 0.01 * random.standard_normal(40)}
    free = random.uniform(0.2, 0.8, 40)
    found = cause(make(gap, layers, {"a": target, "b": free}), sampler="random")
    assert found.layers["a"].spill["b"].low < 0.5 < found.layers["a"].spill["b"].high
    assert found.layers["a"].spill["b"].excludes(0.0)
    assert any(caveat.startswith("Moving a moves other layers too") for caveat in found.caveats)


def test_the_pooled_effect_moves_all_layers_with_targets():
    evidence, truth = simulate("causal", 4, configurations=100)
    found = cause(evidence, sampler="random")
    assert found.pooled.effect.estimate == pytest.approx(0.1 * truth.pooled, abs=0.06)  # about four standard errors
    assert sum(layer.effect.estimate for layer in found.layers.values()) == pytest.approx(0.1 * truth.pooled, abs=0.06)
    one = cause(dataclasses.replace(evidence, targets={"conv1": evidence.targets["conv1"]}), sampler="random")
    assert list(one.layers) == ["conv1"]
    assert one.pooled.effect.estimate == pytest.approx(one.layers["conv1"].effect.estimate)


def test_constant_targets_and_few_configurations_say_so():
    gap, sparsity, target = study(0)
    fixed = cause(make(gap, {"a": sparsity}, {"a": np.full(40, 0.4)}), sampler="random").layers["a"]
    assert fixed.reason == "the targets: it does not vary apart from what is held constant"
    assert fixed.naive.estimate is not None
    few = cause(make(gap[:5], {"a": sparsity[:5]}, {"a": target[:5]}), sampler="random").layers["a"]
    assert few.effect.reason == "5 configurations with a target, and it takes at least 8"
    assert few.anderson_rubin.holds(123.0)


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid", "tpe", "cmaes", "gp", None])
def test_only_samplers_that_do_not_look_count_as_random(sampler):
    found = cause(learned(0, 0.6), sampler=sampler)
    assert any("not drawn at random" in caveat for caveat in found.caveats) == (
        sampler not in ("random", "qmc", "grid")
    )
    assert any("through this layer's sparsity alone" in caveat for caveat in found.caveats)


def test_layers_that_died_are_counted():
    gap, sparsity, target = study(0)
    sparsity[:3] = np.nan
    found = cause(make(gap, {"a": sparsity}, {"a": target}), sampler="random")
    assert found.layers["a"].trials == 37
    assert found.caveats[-1].endswith("which targets may have caused: 3 trials.")


def short_form(study, *arguments):
    """Share of each claim, by its words without the world."""
    found = pd.DataFrame([study(seed, *arguments) for seed in SEEDS]).astype(float).mean()
    return found.rename(lambda key: key.partition(": ")[2])


def test_confounded_studies_have_the_wrong_sign_until_instrumented():
    # Of forty intervals of 95 % more than 6 misses have a chance of 0.3 %. The pooled effect is 2 to 4 standard errors
    # from zero, so that a wrong sign has a chance of 2 % at most, and more than 4 of forty one of 0.1 %.
    found = short_form(cause_study, "confounded")
    assert found["naive slope of mean of layers: share with the wrong sign"] == 1
    assert found["effect of mean of layers: wrong sign"] <= 4 / 40
    assert found["a hidden cause is noticed: share"] > 0.8
    for layer in ("conv1", "conv2", "conv3", "mean of layers"):
        assert found[f"effect of {layer}, two stages: covers"] >= 34 / 40, layer
        assert found[f"effect of {layer}, Anderson-Rubin: covers"] >= 34 / 40, layer
    evidence, truth = simulate("confounded", 0, configurations=60, replicates=2)
    assert level(evidence, shapes=False).pooled.within.low > 0 > truth.pooled


def test_nothing_is_found_where_there_is_nothing():
    # More than 5 of forty at 5 % have a chance of 1.4 %: of effects after correction, and of hidden causes.
    found = short_form(cause_study, "null")
    assert found["any effect, corrected: false positive"] <= 5 / 40
    assert found["a hidden cause is noticed: share"] <= 5 / 40


def test_a_sampler_that_learns_misleads_unless_it_is_told_of():
    # Forty intervals each: told, more than 6 misses have a chance of 0.3 %; not told, about a third misses.
    found = short_form(learner_study, 0.6)
    assert found["effect, two stages: covers"] >= 34 / 40
    assert found["effect, Anderson-Rubin: covers"] >= 34 / 40
    assert found["effect, sampler taken for random: share that covers"] <= 32 / 40


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_get_an_answer_or_a_reason(name):
    for sampler in ("random", "tpe"):
        found = plain(cause(ODD[name], sampler=sampler))
        for layer in [found["pooled"], *found["layers"].values()]:
            assert (layer["effect"]["estimate"] is None) == bool(layer["effect"]["reason"])
            assert layer["anderson_rubin"]["words"]
        for table in found["compliance"].values():
            assert bool(table["bins"]) != bool(table["reason"])


def test_copies_of_a_trial_are_no_new_evidence():
    random = np.random.default_rng(5)
    target = random.uniform(0.2, 0.8, 24)
    sparsity = 0.3 + 0.5 * target + random.normal(0, 0.03, 24)
    gap = 1 + 0.5 * sparsity + random.normal(0, 0.1, 24)
    once = cause(make(gap, {"a": sparsity}, {"a": target}), sampler="random").layers["a"]
    four = [np.repeat(values, 4) for values in (gap, sparsity, target)]
    copied = make(four[0], {"a": four[1]}, {"a": four[2]}, configurations=np.repeat(np.arange(24), 4))
    again = cause(copied, sampler="random").layers["a"]
    # Four times the trials would halve both intervals; as configurations they leave them as they are.
    assert (again.effect.low, again.effect.high) == pytest.approx((once.effect.low, once.effect.high))
    assert again.anderson_rubin.low == pytest.approx(once.anderson_rubin.low)
    assert again.f == pytest.approx(once.f)
