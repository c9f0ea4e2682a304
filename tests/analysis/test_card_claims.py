"""A short form of the claims about the card; the table of simulated worlds has the long one."""

from __future__ import annotations

import numpy as np
import pytest

from sparsestudy.analysis.ranks import rank_correlations
from tests.analysis.card_claims import card_study, onsets_study, told
from tests.analysis.rank_claims import stopped_run
from tests.analysis.test_claims import caused_verdict
from tests.analysis.worlds import simulate
from tests.benchmarks.coverage import stored, summarise
from tests.benchmarks.coverage_page import GOALS, Row, page, read

STUDIES = 16


def answers(run, studies=STUDIES):
    outcomes = [run(seed) for seed in range(studies)]
    return {key: [o[key] for o in outcomes if o.get(key) is not None] for key in outcomes[0]}


@pytest.mark.parametrize("world", ["null", "simpson", "confounded"])
def test_verdicts_in_simulated_worlds(world):
    found = answers(lambda seed: card_study(seed, world))
    covered = [answer for key, of in found.items() if key.endswith("covers") for answer in of]
    assert len(covered) >= 4 * STUDIES
    # Some 80 intervals of 95 %: 84 % of them or fewer hold in one of 300 sets of seeds even if they hold or fail in
    # pairs; of intervals that hold in 80 % four sets in five fail.
    assert np.mean(covered) > 0.84
    for key, wrong in found.items():
        if key.endswith("wrong verdict"):
            # A claim of one side errs in 2.5 % of studies; more than 3 of 16 come once in 2,000 times.
            assert sum(wrong) <= 3, key
    decided = found[f"{world}: denser activations, smaller gap: share decided"]
    if world != "null":
        # Here the slope within arms is three to five of its errors; half of 16 is undecided in none of 10,000 sets.
        assert sum(decided) > STUDIES / 2


def test_the_order_of_onsets_in_simulated_worlds():
    null, causal = (answers(lambda seed, w=world: onsets_study(seed, w)) for world in ("null", "causal"))
    for key, of in null.items():
        if key.endswith(("false positive", "wrong verdict")):
            # Of a rate of 5 % more than 4 in 16 come once in 1,000 times.
            assert sum(of) <= 4, key
    assert sum(causal["causal: sparsity rises first: wrong verdict"]) == 0
    # Sparsity leads by 6 epochs in every run, and onsets vary by 4: the verdict knows in nearly every study.
    assert sum(causal["causal: sparsity rises first: share supported"]) >= STUDIES - 2


def test_located_leads_are_off_by_what_the_page_says():
    found = answers(lambda seed: onsets_study(seed, "causal"), 4)
    # Two to three epochs, each study's median within one.
    error = found["causal: median lead, onsets located: error in epochs"]
    assert 1 <= np.mean(error) <= 3.5


def test_trials_stopped_early_are_no_evidence_of_a_relation():
    evidence, _ = simulate("censored", 0)
    complete = int((evidence.trials["state"] == "COMPLETE").sum())
    assert 0 < complete < len(evidence)
    assert {row.trials for row in rank_correlations(evidence)} == {complete}
    found = answers(stopped_run, 12)
    # Of a rate of 5 % more than 3 in 12 come once in 450 times.
    assert sum(found["censored: any of 14 rank correlations, corrected: false positive"]) <= 3


@pytest.mark.parametrize(
    ("estimate", "error", "truth", "wrong"),
    [
        (0.3, 0.05, 0.2, False),
        (0.3, 0.05, 0.0, True),
        (0.3, 0.05, -0.2, True),
        (-0.3, 0.05, -0.2, False),
        (0.0, 0.01, 0.2, True),
        (0.0, 0.01, 0.02, False),
        (0.1, 0.2, 0.9, False),
    ],
)
def test_a_verdict_is_wrong_that_supports_what_is_not_so_or_refutes_what_is(estimate, error, truth, wrong):
    found = told("w: x", caused_verdict(estimate, error), truth, 0.05, either=True)
    assert found["w: x: wrong verdict"] is wrong


def row(kind, share, low, high):
    return Row(world="w", what="x", kind=kind, answered=9, studies=9, share=share, low=low, high=high)


def test_the_page_counts_goals_and_lists_what_is_missed():
    rows = [
        row("covers", 0.95, 0.94, 0.96),
        row("covers", 0.5, 0.4, 0.6),
        row("wrong sign", 0.06, 0.04, 0.09),
        row("share", 0.5, 0.4, 0.6),
    ]
    assert [r.verdict for r in rows] == ["met", "**missed**", "within chance", ""]
    text = page([("Title", rows)], "python -m x")
    assert "Written by `python -m x` (" in text
    assert "| covers | 1 | 0 | 1 |" in text
    assert "| wrong sign | 0 | 1 | 0 |" in text
    assert "Missed: w: x: covers 0.500. Not explained yet." in text
    assert text.count("\n| w | x |") == 4
    assert "Fewer than 400 studies so far, so that a miss may not show: Title (9)." in text
    assert all(f"\n| {kind} | " in text for kind in GOALS)


def test_a_written_page_is_read_again(tmp_path):
    rows = [row("covers", 0.95, 0.94, 0.96), row("error in epochs", -2.5, -3.0, -2.0), row("share", None, None, None)]
    path = tmp_path / "page.md"
    assert read(path) == {}
    path.write_text(page([("One.", rows), ("Two.", rows[:1])], "x"), encoding="utf-8")
    assert read(path) == {"One.": rows, "Two.": rows[:1]}


def test_a_run_that_was_cut_off_keeps_what_is_whole(tmp_path):
    path = tmp_path / "x.jsonl"
    assert stored(path) == {}
    path.write_text('[7, {"a: b: covers": true}]\n[8, {"a: b: covers": fal', encoding="utf-8")
    assert stored(path) == {7: {"a: b: covers": True}}
    assert summarise(list(stored(path).values()))[0].share == 1.0
