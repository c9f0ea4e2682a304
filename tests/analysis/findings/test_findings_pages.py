"""Whole pages: of one study with findings, of several studies, and of odd ones."""

import json
import re
from dataclasses import replace

import pytest

from sparsestudy.analysis.report import write_relation_page, write_report
from sparsestudy.study import StudySpec
from sparsestudy.trial import TrialState
from tests.analysis.findings.made import findings_of, fitted
from tests.analysis.odd_studies import ODD
from tests.analysis.test_report import EVIL, Page, make_spec, make_study, make_trial

COMMANDS = {"Fit again": "sparsestudy analyze a b"}


def relation_page(tmp_path, found, title="a with b", runs=None):
    path = tmp_path / "relation.html"
    write_relation_page(path, found, title=title, commands=COMMANDS, runs=runs or {})
    return Page(path).check()


def test_card_stands_below_the_answer_and_the_rest_after_the_figures(tmp_path):
    spec = make_spec()
    trials, trajectories = make_study(spec)
    path = tmp_path / "report.html"
    runs = {(spec.name, 3): "https://mlflow.example/#/runs/3", (spec.name, 4): "0a1b"}
    write_report(path, spec, trials, trajectories, commands=COMMANDS, findings=findings_of(), runs=runs)
    page = Page(path).check()
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", page.raw)
    assert heads[:2] == ["What the study says of each claim", "Arms"]
    order = ["Layer by epoch", "How sparsity goes with overfitting", "What comes first", "What the search tried",
             "All trials", "Failed trials", "Left out", "Reproduce", "Study file"]  # fmt: skip
    assert [h for h in heads if h in order] == order
    assert {"gap0", "slopes", "sensitivity", "ranks", "tau0", "onsets", "leads", "first", "medians", "hazards",
            "alarms", "alarmlead", "importance0", "parallel0", "arms", "loss"} <= set(page.figures)  # fmt: skip
    assert [row[-1] for row in page.tables["trials"]["rows"][3:6]] == ["https://mlflow.example/#/runs/3", "0a1b", None]
    assert len(page.tables["trials"]["rows"]) == len(trials)
    assert "This page was written with Python" in page.text


def test_without_findings_the_page_says_how_to_get_them(tmp_path):
    spec = make_spec()
    write_report(tmp_path / "r.html", spec, *make_study(spec), commands={})
    page = Page(tmp_path / "r.html").check()
    assert "This has not been fitted yet: sparsestudy analyze overfit-digits does, and adds it here." in page.text
    assert "What the study says of each claim" not in page.text


def test_a_page_of_its_own_says_the_answer_first(tmp_path):
    found = findings_of()
    page = relation_page(tmp_path, found, title=EVIL, runs={("simulated", 0): "http://h/1"})
    assert page.text.count(EVIL) >= 1
    assert "<script>alert" not in page.raw
    assert "What holds here?" in page.text
    decided = [f"{v.status.capitalize()}: {v.claim}" for v in found.relation.verdicts if v.status != "undecided"]
    assert decided
    assert page.text.index(decided[0]) < page.text.index("What the study says of each claim")
    assert "Studies: simulated. 60 trials of 20 configurations in 2 arms; 0 left out." in page.text
    assert "sparsestudy analyze a b" in page.text
    settled = tuple(replace(v, status="undecided") for v in found.relation.verdicts)
    page = relation_page(tmp_path, replace(found, relation=replace(found.relation, verdicts=settled)))
    assert f"Nothing is settled: all {len(settled)} claims are undecided." in page.text


def test_names_are_inert_in_figures_and_tables(tmp_path):
    found = findings_of()
    arm = "<script>alert('x')</script>"
    evidence = replace(found.evidence, trials=found.evidence.trials.replace({"arm": {"both": arm}}))
    relation = replace(found.relation, arms=(arm, "perplexity"))
    page = relation_page(tmp_path, replace(found, evidence=evidence, relation=relation))
    assert "<script>alert" not in page.raw
    assert "<script" not in json.dumps(page.figures)


SAID = {
    "0 trials": "No trial can be used, so nothing can be said of sparsity and overfitting.",
    "1 trials": "1 trial trained to the end with both a gap and a defined sparsity; it takes two to compare.",
    "2 trials": "No slope can be given: 2 usable trials, and it takes at least 3.",
    "one configuration": "No slope can be given: too few configurations vary for an interval.",
    "no sparsity": "0 trials trained to the end with both a gap and a defined sparsity",
    "constant sparsity": "All trials end with the same sparsity, so nothing can be said of how the gap goes with it.",
    "constant gap": "No measure can be ranked against the gap:",
    "no gap": "No measure can be ranked against the gap:",
    "all stopped": "0 trials trained to the end with both a gap and a defined sparsity",
    "nothing measured": "No measure was recorded, so none can be compared.",
    "no targets": "Cause and company cannot be told apart here:",
}


@pytest.mark.parametrize("name", SAID)
def test_odd_studies_say_in_words_what_cannot_be_said(tmp_path, name):
    page = relation_page(tmp_path, fitted(ODD[name]))
    assert SAID[name] in page.text
    for figure in page.figures.values():
        shown = [v for trace in figure["data"] for v in trace.get("z", trace.get("x")) or [] if v is not None]
        assert shown, figure["layout"].get("xaxis")
    # Every heading of a section is followed by something.
    assert not re.search(r"</h3>\s*<h[23]", page.raw)


@pytest.mark.parametrize("state", [None, TrialState.FAIL, TrialState.WAITING])
def test_studies_without_any_usable_trial(tmp_path, state):
    spec: StudySpec = make_spec()
    trials = [make_trial(spec, n, "none", 0, state=state) for n in range(3)] if state else []
    path = tmp_path / "r.html"
    write_report(path, spec, trials, {}, commands=COMMANDS, findings=fitted(ODD["0 trials"]))
    page = Page(path).check()
    assert "No trial can be used" not in page.text  # the head speaks of the trials themselves
    assert re.search(r"0 supported, 0 refuted, \d+ undecided\.", page.text)
    assert not page.figures


def test_thousands_of_trials_are_thinned(tmp_path):
    found = findings_of("null")
    rows = list(range(len(found.evidence))) * 34
    evidence = replace(
        found.evidence,
        trials=found.evidence.trials.iloc[rows].reset_index(drop=True),
        curves={name: curve[rows] for name, curve in found.evidence.curves.items()},
        values=found.evidence.values[rows],
        targets={name: target[rows] for name, target in found.evidence.targets.items()},
    )
    page = relation_page(tmp_path, replace(found, evidence=evidence))
    marks = sum(len(t["x"]) for t in page.figures["gap0"]["data"] if t.get("mode") == "markers")
    assert marks == 400
    assert "2040 trials of 20 configurations, 400 of them drawn" in page.text
    assert len(page.tables["trials"]["rows"]) == 2_040
    assert len(page.raw) < 5_500_000
