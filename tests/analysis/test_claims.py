"""Verdicts over all trials: what supports, refutes and settles them, by hand-made results and by simulated worlds."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sparsestudy.analysis.anderson_rubin import Region
from sparsestudy.analysis.cause import Cause, LayerCause, cause
from sparsestudy.analysis.claims import (
    by_arm,
    cause_verdict,
    density_verdict,
    growth,
    level_verdict,
    timing_verdict,
)
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.lead import lead_time
from sparsestudy.analysis.level import level
from sparsestudy.analysis.onset import Onsets
from sparsestudy.analysis.timing import Timing
from tests.analysis.level_claims import make
from tests.analysis.worlds import simulate

ARMS = {"none": 4, "perplexity": 8}


def timed(late, early):
    seen = [Onsets(epoch=np.asarray(v), censored=np.zeros(len(v), dtype=bool)) for v in (late, early)]
    leads = {"conv1": lead_time(*seen, np.arange(len(late)))}
    return Timing(leads=leads, after_rise={}, by_level={}, detectors=())


def test_an_order_of_onsets_that_go_together_is_supported():
    early = np.arange(10, 22)
    found = timing_verdict(timed(early + 5, early), ARMS)
    assert (found.status, found.effect, found.further) == ("supported", 0.5, {})
    # Clopper and Pearson for 12 of 12: 0.025^(1/12).
    assert found.low == pytest.approx(0.025 ** (1 / 12) - 0.5)
    assert timing_verdict(timed(early, early + 5), ARMS).status == "refuted"


def test_an_order_of_onsets_that_do_not_go_together_is_undecided_and_names_what_would_settle_it():
    random = np.random.default_rng(3)
    late, early = random.permutation(np.arange(30, 42)), random.permutation(np.arange(5, 17))
    correlation = stats.spearmanr(late, early).statistic
    assert abs(correlation) < 0.3
    found = timing_verdict(timed(late, early), ARMS)
    assert found.status == "undecided"
    assert "the clock alone may have put them in order" in found.said
    # A correlation of 0.3 needs 3 + (2.80159 / artanh 0.3)^2 = 84.9 configurations; 12 are there, a third in one arm.
    assert found.further == {
        "none": int(np.ceil(4 * (84.92 / 12 - 1))),
        "perplexity": int(np.ceil(8 * (84.92 / 12 - 1))),
    }


def slope_of(estimate, error, freedom=1e6):
    reach = stats.t.ppf(0.975, freedom) * error
    return Estimate(estimate=estimate, low=estimate - reach, high=estimate + reach, freedom=freedom)


def test_growth_is_that_of_the_power_of_a_test():
    # The error shrinks with the root of the number: 80 % power wants estimate / error = 1.96 + 0.8416.
    assert growth(slope_of(0.2, 0.1), 0.01) == pytest.approx((0.1 * 2.80159 / 0.2) ** 2, rel=1e-4)
    assert growth(slope_of(0.0, 0.1), 0.05) == pytest.approx((0.1 * 2.80159 / 0.05) ** 2, rel=1e-4)
    assert growth(Estimate(estimate=1.0), 0.1) is None


@pytest.mark.parametrize(
    ("estimate", "error", "status"),
    [(0.05, 0.01, "supported"), (0.0, 0.004, "refuted"), (0.01, 0.02, "undecided"), (-0.05, 0.01, "refuted")],
)
def test_level_is_decided_by_its_interval_and_names_the_arms(estimate, error, status):
    fitted = level(simulate("null", 0)[0], "accuracy", shapes=False)
    pooled = dataclasses.replace(fitted.pooled, within=slope_of(estimate, error))
    found = level_verdict(dataclasses.replace(fitted, pooled=pooled), "accuracy", ARMS)
    assert found.status == status
    assert set(found.further) == (set(ARMS) if status == "undecided" else set())


def caused(effect, region, f):
    layer = LayerCause(
        layer="mean of layers", trials=40, configurations=20, effect=effect, anderson_rubin=region,
        naive=slope_of(-0.1, 0.01), f=f, weak=f < 10, spill={},
    )  # fmt: skip
    return Cause(gap="loss", measure="perplexity", layers={}, pooled=layer, compliance={}, identifies="", caveats=())


def caused_verdict(estimate, error):
    return cause_verdict(caused(slope_of(estimate, error), Region(words=""), 40.0))


def test_weak_targets_are_judged_by_the_interval_that_holds_for_them():
    effect, region = slope_of(0.3, 0.05), Region(low=-0.1, high=4.0, p=0.2, words="from -0.1 to 4")
    strong = cause_verdict(caused(effect, region, 40.0), ARMS)
    assert (strong.status, strong.low, strong.high) == ("supported", effect.low, effect.high)
    assert "F 40" in strong.said
    weak = cause_verdict(caused(effect, region, 4.0), ARMS)
    assert (weak.status, weak.low, weak.high) == ("undecided", -0.1, 4.0)
    # F grows with the number of configurations: from 4 to 10 it takes 2.5 times as many.
    assert weak.further == {"none": 6, "perplexity": 12}
    unbounded = cause_verdict(caused(effect, Region(words="unbounded: all"), 2.0), ARMS)
    assert (unbounded.status, unbounded.low, unbounded.effect) == ("undecided", None, 0.3)
    assert "unbounded: all" in unbounded.said


def test_layers_speak_apart_where_their_mean_is_hardly_moved():
    effect, region = slope_of(0.3, 0.05), Region(low=-0.1, high=4.0, p=0.2, words="from -0.1 to 4")
    weak, strong = (caused(effect, region, f).pooled for f in (4.0, 40.0))
    layers = {"conv1": strong, "conv2": weak}
    told = cause_verdict(dataclasses.replace(caused(effect, region, 4.0), layers=layers), ARMS).said
    assert "and not corrected for looking at 1: conv1 +0.3 (95 % interval" in told
    assert "conv2" not in told
    assert "conv1" not in cause_verdict(dataclasses.replace(caused(effect, region, 40.0), layers=layers), ARMS).said


def test_an_effect_in_either_direction_supports_and_a_small_one_refutes():
    nothing = Region(words="")
    assert cause_verdict(caused(slope_of(-0.3, 0.05), nothing, 40.0)).status == "supported"
    assert cause_verdict(caused(slope_of(0.0, 0.01), nothing, 40.0)).status == "refuted"
    assert cause_verdict(cause(simulate("null", 0, configurations=4, replicates=1)[0])).status == "undecided"


def images(studies):
    """Score falls with sparsity, -0.4 per unit, in two studies of ten configurations."""
    random = np.random.default_rng(0)
    sparsity = random.uniform(0.3, 0.7, 40)
    evidence = make(np.zeros(40), {"a": sparsity}, configurations=np.arange(40) // 2)
    score = (0.9 - 0.4 * sparsity + random.normal(0, 0.01, 40))[:, None]
    trials = evidence.trials.assign(study=np.repeat(studies, 20))
    return replace(evidence, trials=trials, curves={**evidence.curves, "validation/accuracy": score})


def test_that_image_tasks_prefer_denser_activations_takes_two_of_them():
    evidence = images(["s", "t"])
    both = density_verdict(evidence, "accuracy", {"s": "digits", "t": "svhn"})
    assert both.status == "supported"
    assert both.low < 0.04 < both.high
    assert both.configurations == 20
    one = density_verdict(evidence, "accuracy", {"s": "digits"})
    assert (one.status, one.configurations, one.further) == ("undecided", 10, {})
    assert one.low > 0
    assert "One task does not speak for image tasks" in one.said
    same = density_verdict(evidence, "accuracy", {"s": "digits", "t": "digits"})
    assert same.status == "undecided"
    none = density_verdict(evidence, "accuracy", {})
    assert (none.status, none.effect) == ("undecided", None)
    assert "no study here is known to be about images" in none.said


def test_configurations_are_counted_by_arm():
    assert by_arm(simulate("null", 0, configurations=10)[0]) == {"none": 3, "perplexity": 5, "dropout": 2}
