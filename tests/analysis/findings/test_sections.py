"""The sections one by one: what they draw is what was fitted, and what they leave out is told."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sparsestudy.analysis.anderson_rubin import Region
from sparsestudy.analysis.estimate import Estimate
from sparsestudy.analysis.findings.card import verdict_section
from sparsestudy.analysis.findings.marks import SOFT
from sparsestudy.analysis.findings.measures import measures_section
from sparsestudy.analysis.findings.order import order_section, usual
from sparsestudy.analysis.findings.rules import arms_section, rules_section
from sparsestudy.analysis.findings.search import _height, importance_section, parallel_section
from sparsestudy.analysis.findings.slopes import gap_section, slope_section, two_stage, window
from sparsestudy.analysis.findings.trials import excluded_section, trials_section
from sparsestudy.analysis.page import Sheet
from sparsestudy.analysis.sample import POOLED
from sparsestudy.analysis.shape import no_shape
from sparsestudy.analysis.verdict import Verdict
from tests.analysis.findings.made import findings_of, with_arms


def drawn(section, *arguments):
    """The HTML of a section, and its figures by name."""
    sheet = Sheet()
    return section(*arguments, sheet.figure), sheet.figures


def points(figure):
    return [(x, y) for t in figure["data"] if t.get("mode") == "markers" for x, y in zip(t["x"], t["y"], strict=True)]


def make_verdict(**changes):
    given = {"claim": "It <b>works</b>.", "status": "supported", "effect": 1.0, "low": -1.0, "high": 3.0,
             "unit": "accuracy", "configurations": 9, "said": "Said so."}  # fmt: skip
    return Verdict(**{**given, **changes})


def card_of(*verdicts):
    return verdict_section(replace(findings_of().relation, verdicts=verdicts))


def test_card_tells_status_effect_interval_and_what_would_settle_it():
    further = {"perplexity": 24, "none": 12}
    html = card_of(make_verdict(status="undecided", further=further), make_verdict(status="refuted"), make_verdict())
    words = re.findall(r'class="status">(.*?)<', html)
    assert words == ["✔ supported", "✘ refuted", "? undecided"]
    assert "1 supported, 1 refuted, 1 undecided." in html
    assert "It &lt;b&gt;works&lt;/b&gt;." in html
    assert "Effect <b>1</b> (-1 to 3) accuracy" in html
    assert html.count("What would settle it:") == 1
    assert "about this many further configurations: 24 of perplexity, 12 of none." in html


def test_card_draws_the_interval_to_scale():
    # From -1 to 3 with 8 % of 4 on either side: 300 pixels for 4.64.
    svg = re.search(r"<svg.*?</svg>", card_of(make_verdict())).group()
    at = [tuple(float(v) for v in pair) for pair in re.findall(r'x1="(.*?)" x2="(.*?)"', svg)]
    zero, low, high, effect = (round(300 * (v + 1.32) / 4.64, 1) for v in (0, -1, 3, 1))
    assert at == [(zero, zero), (low, high), (effect, effect)]
    assert "stroke-dasharray" not in svg
    assert "stroke-dasharray" in card_of(make_verdict(status="undecided"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"further": {"a": 2000}}, "more than 1,000 further configurations of an arm."),
        ({}, "more configurations; how many cannot be said."),
        ({"low": None, "high": None}, "trials that the claim can be judged by; there are too few, or none."),
        ({"further": {f"a{i}": 3 for i in range(6)}}, "3 of a3 and as many of 2 more arms."),
    ],
)
def test_card_of_what_is_undecided(changes, expected):
    html = card_of(make_verdict(status="undecided", **changes))
    assert expected in html
    assert ("without an interval" in html) == ("low" in changes)


def test_card_without_an_effect():
    html = card_of(make_verdict(status="undecided", effect=None, low=None, high=None))
    assert "No effect can be given." in html
    assert "<svg" not in html


def test_gap_is_drawn_over_sparsity_with_the_fitted_curve():
    found = findings_of()
    html, figures = drawn(gap_section, found, found.relation.arms)
    evidence = found.evidence
    assert len(figures) == 4  # the mean of layers, and three layers
    # An independent reading of the trials: mean over layers, and gap, at the last epoch.
    ends = np.array([evidence.last(evidence.series(s)) for s in evidence.signals if s.measure == "perplexity"])
    loss = {k: evidence.last(evidence.curves[f"{k}/loss"]) for k in ("train", "validation")}
    expected = sorted(zip(ends.mean(axis=0), loss["validation"] - loss["train"], strict=True))
    np.testing.assert_allclose(sorted(points(figures["gap0"])), expected, rtol=2e-4)
    curve = next(t for t in figures["gap0"]["data"] if t.get("mode") == "lines" and t["line"]["width"] == 3)
    shape = found.relation.level.pooled.shape.curve
    level = float((loss["validation"] - loss["train"]).mean())
    np.testing.assert_allclose(curve["y"], [level + d for _, d, _, _ in shape], rtol=1e-4)
    assert "How to read this:" in html


def test_without_a_curve_the_slope_is_drawn_with_its_fan():
    found = findings_of()
    slope = Estimate(estimate=0.2, low=0.1, high=0.4)
    pooled = replace(found.relation.level.pooled, within=slope, shape=no_shape("few"))
    relation = replace(found.relation, level=replace(found.relation.level, pooled=pooled))
    _, figures = drawn(gap_section, replace(found, relation=relation), relation.arms)
    line = next(t for t in figures["gap0"]["data"] if t.get("mode") == "lines" and t["line"]["width"] == 3)
    band = next(t for t in figures["gap0"]["data"] if t.get("fill") == "toself")
    per_unit = (line["y"][-1] - line["y"][0]) / (line["x"][-1] - line["x"][0])
    assert per_unit == pytest.approx(0.2 / 0.1, rel=1e-3)
    half = len(line["x"])
    end = (np.array(band["y"][:half]) - line["y"])[-1] / (
        line["y"][-1] - np.mean([p[1] for p in points(figures["gap0"])])
    )
    assert end == pytest.approx((0.4 - 0.2) / 0.2, rel=0.02)


def test_runaway_gaps_do_not_flatten_the_picture():
    values = np.append(np.linspace(0.0, 1.0, 200), 1e6)
    low, high = window(values)
    assert -0.2 < low < 0
    assert 1 < high < 3
    assert window(np.full(5, 2.0))[0] < 2.0 < window(np.full(5, 2.0))[1]


def test_many_arms_are_not_all_named():
    found = with_arms(findings_of(), 30)
    html, figures = drawn(gap_section, found, found.relation.arms)
    named = [t["name"] for t in figures["gap0"]["data"] if t.get("showlegend")]
    assert len(named) == 7
    assert "of 30 arms those with the smallest and the largest gaps are" in html
    assert not figures["gap1"]["layout"]["showlegend"]
    _, figures = drawn(arms_section, found)
    assert len(figures["sensitivity"]["layout"]["yaxis"]["ticktext"]) == 15
    html, _ = drawn(arms_section, found)
    assert "Shown are the 14 most telling of 30 arms" in html


def test_weak_targets_are_drawn_with_the_interval_that_holds():
    effect = replace(
        findings_of().relation.cause.pooled,
        effect=Estimate(estimate=0.1, low=0.0, high=0.2),
        anderson_rubin=Region(low=-1.0, high=2.0, words="from -1 to 2"),
    )
    assert (two_stage("r", replace(effect, weak=False)).low, two_stage("r", replace(effect, weak=False)).high) == (
        0.0,
        0.2,
    )
    assert (two_stage("r", replace(effect, weak=True)).low, two_stage("r", replace(effect, weak=True)).high) == (
        -1.0,
        2.0,
    )
    unbounded = replace(effect, weak=True, anderson_rubin=Region(words="unbounded"))
    assert not two_stage("r", unbounded).bounded


def test_slopes_are_those_that_were_fitted():
    found = findings_of()
    html, figures = drawn(slope_section, found)
    naive = next(t for t in figures["slopes"]["data"] if t.get("name") == "all trials, within arms")
    fitted = [found.relation.level.pooled, *found.relation.level.layers.values()]
    np.testing.assert_allclose(naive["x"], [f.within.estimate for f in fitted], rtol=1e-4)
    second = next(t for t in figures["slopes"]["data"] if t.get("name") == "by assigned targets (two-stage)")
    causes = [found.relation.cause.pooled, *found.relation.cause.layers.values()]
    np.testing.assert_allclose(second["x"], [c.effect.estimate for c in causes], rtol=1e-4)
    assert [f"F = {c.f:.3g}" in html or f"F = {c.f:.3g}" in str(figures) for c in causes] == [True] * 4
    assert all(f"{c.f:.3g}" in html for c in causes)


def test_measures_are_filled_only_if_they_stand_out_after_correction():
    found = findings_of()
    rows = [replace(r, discovered=r.measure == "zero_fraction") for r in found.relation.ranks]
    html, figures = drawn(measures_section, replace(found, relation=replace(found.relation, ranks=tuple(rows))))
    panel = figures["tau0"]
    marker = panel["data"][0]["marker"]
    order = list(panel["layout"]["yaxis"]["ticktext"])
    fills = dict(zip(order, marker["color"], strict=True))
    assert fills["zero_fraction"] == "#0072b2"
    assert fills["perplexity"].startswith("rgba")
    assert dict(zip(order, marker["line"]["color"], strict=True))["perplexity"] == "#d55e00"
    # Three layers at two moments of fourteen signals and moments.
    assert "6 of 14 correlations" in html
    dots = [cell for row in figures["ranks"]["data"][0]["text"] for cell in row]
    assert dots.count("•") == 3


def test_correlations_without_an_interval_are_not_coloured():
    found = findings_of()

    def without(row):
        return replace(row, kendall=Estimate(estimate=1.0, reason="2 configurations"), discovered=False)

    some = tuple(without(r) if r.layer == "conv1" else r for r in found.relation.ranks)
    _, figures = drawn(measures_section, replace(found, relation=replace(found.relation, ranks=some)))
    assert list(figures["ranks"]["data"][0]["x"]) == ["conv2", "conv3"]
    every = tuple(without(r) for r in found.relation.ranks)
    html, figures = drawn(measures_section, replace(found, relation=replace(found.relation, ranks=every)))
    assert "No measure can be ranked against the gap: 2 configurations." in html
    assert not figures


def test_onsets_drawn_are_the_onsets_counted():
    found = findings_of("censored")
    lead = found.relation.timing.leads[POOLED]
    html, figures = drawn(order_section, found, found.relation.arms)
    symbols = [s for t in figures["onsets"]["data"] for s in (t["marker"].get("symbol") or [])]
    assert symbols.count("circle") == lead.first + lead.same + lead.after
    assert symbols.count("triangle-up-open") == lead.only_sparsity
    assert symbols.count("triangle-right-open") == lead.only_overfitting
    assert min(lead.first, lead.only_sparsity) > 0
    assert f"{len(symbols)} trials" in html
    steps = next(t for t in figures["leads"]["data"] if t["mode"] == "lines")
    assert steps["y"][0] == 0
    assert steps["y"][-1] == pytest.approx(lead.distribution[-1][1], abs=1e-4)
    assert f"The leads of {1 - lead.distribution[-1][1]:.0%} are longer" in html


def test_shares_are_held_against_the_clock():
    found = findings_of("censored")
    leads = found.relation.timing.leads
    _, figures = drawn(order_section, found, found.relation.arms)
    clock = next(t for t in figures["first"]["data"] if "clock" in str(t.get("name")))
    assert clock["x"] == [round(max(0.5, lead.by_chance), 4) for lead in [leads[POOLED], *leads.values()][:4]]
    assert usual(replace(leads[POOLED], by_chance=0.2)) == 0.5
    assert usual(replace(leads[POOLED], by_chance=None)) == 0.5
    assert usual(replace(leads[POOLED], by_chance=0.8)) == 0.8


def test_hazard_ratios_stand_on_a_logarithmic_axis():
    found = findings_of()
    _, figures = drawn(order_section, found, found.relation.arms)
    ratios = [h.ratio for h in found.relation.timing.after_rise.values() if h.ratio is not None]
    assert ratios
    np.testing.assert_allclose(sorted(10 ** np.array(figures["hazards"]["data"][0]["x"])), sorted(ratios), rtol=1e-3)
    axis = figures["hazards"]["layout"]["xaxis"]
    ticks = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert (ticks["1"], ticks["10"]) == (0, 1)
    assert ticks["5"] == pytest.approx(np.log10(5), abs=1e-4)


def test_rules_are_told_with_what_they_cost():
    found = findings_of()
    html, figures = drawn(rules_section, found)
    rules = {d.name: d for d in found.relation.timing.detectors}
    patience = next(d for name, d in rules.items() if name.startswith("validation loss, patience"))
    assert f"{patience.false_alarms.estimate:.0%}" in html
    assert f"{patience.against_constant.estimate:.3g}" in html
    assert "gradient disparity was not recorded" in html
    assert {"alarms", "alarmlead"} <= set(figures)


def test_importance_adds_up_and_says_what_is_not_shown():
    arms = {f"arm{i}": {f"arm{i}/strength": 1.0 + i, "training.optimizer.lr": 1.0} for i in range(9)}
    found = replace(findings_of(), importance={"all": {f"p{i}": 1.0 for i in range(14)}, **arms, "silent": {"x": 0.0}})
    html, figures = drawn(importance_section, found)
    assert len(figures) == 7  # all, and six arms
    assert figures["importance0"]["data"][0]["x"] == [pytest.approx(1 / 14, abs=1e-4)] * 10
    assert "All trials; 4 more are smaller" in html
    assert "Shown are the 6 most telling of 9 arms; the rest is left out." in html
    last = figures["importance6"]["data"][0]
    assert last["x"] == [pytest.approx(0.9), pytest.approx(0.1)]
    assert list(figures["importance6"]["layout"]["yaxis"]["ticktext"]) == ["strength", "optimizer.lr"]
    assert "PED-ANOVA compares" in html
    html, figures = drawn(importance_section, replace(found, importance={}))
    assert "is not known: it takes about ten complete trials" in html
    assert not figures


def test_heights_on_parallel_axes():
    heights, ends = _height(pd.Series([0.01, 0.1, 1.0]))
    assert heights.tolist() == pytest.approx([0, 0.5, 1])  # more than a factor of 20: logarithmic
    assert ends == ("0.01", "1")
    assert _height(pd.Series([2.0, 3.0, 6.0]))[0].tolist() == [0, 0.25, 1]
    heights, ends = _height(pd.Series(["b", "a", "c"]))
    assert (heights.tolist(), ends) == ([0.5, 0, 1], ("a", "c"))
    assert np.isnan(_height(pd.Series([1.0, np.nan, 2.0]))[0][1])
    assert _height(pd.Series([2.0, 2.0]))[0].tolist() == [0.5, 0.5]


def test_parallel_axes_belong_to_the_arm():
    found = findings_of()
    _, figures = drawn(parallel_section, found)
    assert len(figures) == len(set(found.evidence.trials["arm"]))
    titles = ["".join(figure["layout"]["xaxis"]["ticktext"]) for figure in figures.values()]
    assert sum("dropout" in title for title in titles) == 1  # of the arm that drops out
    lines = [t for t in figures["parallel0"]["data"] if t.get("mode") == "lines+markers"]
    assert sum(t["x"].count(None) for t in lines) == 30  # a trial a line


def test_table_lists_every_trial_and_links_only_to_servers():
    found = findings_of()
    excluded = pd.DataFrame([("simulated", 99, "none", "failed: <b>no</b>")], columns=found.evidence.excluded.columns)
    found = replace(found, evidence=replace(found.evidence, excluded=excluded))
    sheet = Sheet()
    runs = {
        ("simulated", 0): "http://host:5000/#/r/1",
        ("simulated", 1): "javascript:alert(1)",
        ("simulated", 2): "ab12",
    }
    html = trials_section(found, runs, sheet)
    table = sheet.tables["trials"]
    assert [title for title, _ in table["columns"]][:3] == ["Trial", "Arm", "State"]
    assert [row[0] for row in table["rows"]] == [*found.evidence.trials["trial"], 99]
    assert [row[-1] for row in table["rows"][:4]] == [*runs.values(), None]
    assert re.findall(r'href="(.*?)"', html) == ["http://host:5000/#/r/1"]
    assert "The first 25 of 61 rows" in html
    assert table["rows"][-1][2] == "left out: failed: <b>no</b>"
    told = excluded_section(found)
    assert "1 trial of 61 cannot be used" in told
    assert "failed: &lt;b&gt;no&lt;/b&gt;: 1" in told


def test_scores_of_regressions_are_no_shares():
    found = findings_of()
    verdicts = tuple(replace(v, unit=v.unit.replace("accuracy", "R²")) for v in found.relation.verdicts)
    sheet = Sheet()
    trials_section(replace(found, relation=replace(found.relation, verdicts=verdicts)), {}, sheet)
    assert ["Validation R²", "number"] in sheet.tables["trials"]["columns"]


def test_soft_is_the_colour_of_what_is_undecided():
    found = findings_of()
    _, figures = drawn(slope_section, found)
    lines = {t["line"]["color"] for t in figures["slopes"]["data"] if t["mode"] == "lines" and t["x"]}
    undecided = [f for f in found.relation.level.layers.values() if not f.within.excludes()]
    assert (SOFT in lines) == bool(undecided)
