"""The verb analyze on recorded studies: the card, the files, and what it says where nothing can be said."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pandas as pd
import pytest

from sparsestudy import operations
from sparsestudy.analyzing import TABLES, analyze, analyze_study
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError, NotFoundError
from sparsestudy.recorded import open_study, studies
from sparsestudy.specfile import dump_yaml
from sparsestudy.tracking import mlflow_store
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.trial import TrialState
from tests.servers import free_port
from tests.test_gathering import SPEC, USED, record
from tests.written_studies import ARMS, spec_of, write

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
SCHEMA = json.loads((Path(__file__).parents[1] / "studies" / "relation.schema.json").read_text(encoding="utf-8"))


def relation_in(folder: Path) -> dict[str, Any]:
    """The relation in a folder; it has to be as published, and to hold no number that JSON has not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in relation.json")

    found: dict[str, Any] = json.loads((folder / "relation.json").read_text(), parse_constant=refuse)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


def test_analyze_writes_the_relation_the_tables_and_the_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(home / SPEC.name).ledger.close()
    assert main(["analyze", SPEC.name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 trials of 3 configurations in 2 arms; 4 left out\n")
    assert "undecided  Penalising activation sparsity beats dropout." in printed
    folder = home / SPEC.name
    relation = relation_in(folder)
    assert (relation["format"], relation["trials"], relation["configurations"]) == (1, 4, 3)
    assert relation["reason"] == ""
    assert len(relation["excluded"]) == 4
    assert len(relation["verdicts"]) == 8
    rows = pd.read_parquet(folder / "evidence-trials.parquet")
    assert rows["trial"].tolist() == USED
    assert printed.count("written  ") == 4
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Penalising activation sparsity beats dropout." in page


def test_analyzing_again_replaces_the_files(home: Path) -> None:
    record(home / SPEC.name).ledger.close()
    first = analyze([SPEC.name]).files[0].read_bytes()
    assert analyze([SPEC.name, SPEC.name]).files[0].read_bytes() == first


def test_an_unknown_study_is_named(home: Path) -> None:
    with pytest.raises(NotFoundError, match="no study named 'nothing'"):
        analyze(["nothing"])


ODD: dict[str, dict[str, Any]] = {
    "empty": {"states": []},
    "two trials": {"states": [COMPLETE] * 2},
    "all failed": {"states": [FAIL] * 3},
    "all pruned": {"states": [PRUNED] * 12},
    "one arm": {"states": [COMPLETE] * 12, "arms": ARMS[1:]},
    "one configuration": {"states": [COMPLETE] * 12, "arms": ARMS[:1], "same": True},
    "regression": {"states": [COMPLETE] * 6, "task": "regression"},
    "nothing measured": {"states": [COMPLETE] * 12, "measured": False},
    "one epoch": {"states": [COMPLETE] * 6, "epochs": 1},
    "some of each": {"states": [COMPLETE, PRUNED, FAIL] * 5},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_say_in_words_what_cannot_be_said(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(ODD[name])
    folder = write(home, spec_of("odd", given.pop("arms", ARMS)), given.pop("states"), **given)
    assert main(["analyze", "odd"]) == 0
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert " nan" not in shown.out.lower()
    relation = relation_in(folder)
    assert relation["trials"] == sum(state is not FAIL for state in ODD[name]["states"])
    # Nothing is left out in silence.
    for verdict in relation["verdicts"]:
        assert verdict["said"]
        assert verdict["effect"] is not None or verdict["status"] == "undecided"
    assert (folder / "report.html").stat().st_size > 1000
    assert (folder / "evidence-trials.parquet").exists()


def test_no_usable_trial_is_told_with_the_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(home, spec_of("none-yet"), [])
    write(home, spec_of("failed"), [FAIL, FAIL])
    assert analyze(["none-yet"]).relation.reason == "there is no trial yet"
    assert main(["analyze", "failed"]) == 0
    why = "no trial can be used: 2 failed with DivergedError: the loss left all bounds"
    assert f"nothing can be said: {why}\n" in capsys.readouterr().out
    assert relation_in(home / "failed")["reason"] == why


# Several studies


def test_several_studies_have_a_folder_of_their_own(home: Path) -> None:
    for name in ("a", "b", "c"):
        write(home, spec_of(name), [COMPLETE] * 4)
    alone = analyze(["a"]).files[0].read_bytes()
    found = analyze(["a", "b", "c"])
    assert {path.parent for path in found.files} == {home / "a" / "with-b-c"}
    page = (home / "a" / "with-b-c" / "relation.html").read_text(encoding="utf-8")
    assert "How sparsity goes with overfitting in a and b and c" in page
    assert relation_in(home / "a" / "with-b-c")["studies"] == ["a", "b", "c"]
    assert (home / "a" / "relation.json").read_bytes() == alone
    assert sorted(studies()) == ["a", "b", "c"]


def test_the_same_arm_under_the_same_circumstances_is_one(home: Path) -> None:
    # The second study repeats the first with another seed: 4 configurations, each twice.
    write(home, spec_of("a"), [COMPLETE] * 4)
    write(home, spec_of("b", training={"seed": 7}), [COMPLETE] * 4)
    relation = analyze(["a", "b"]).relation
    assert relation.arms == ("none", "perplexity")
    # The control has one configuration; the penalty draws a new one in each of its two trials.
    assert (relation.trials, relation.configurations) == (8, 3)


def test_equal_names_of_arms_that_differ_are_kept_apart(home: Path) -> None:
    write(home, spec_of("a"), [COMPLETE] * 4)
    other = ({"name": "none"}, {"name": "perplexity", "method": "dropout", "strength": {"uniform": [0.1, 0.6]}})
    write(home, spec_of("b", other), [COMPLETE] * 4)
    analyze(["a", "b"])
    table = pd.read_parquet(home / "a" / "with-b" / "evidence-trials.parquet")
    assert list(dict.fromkeys(table["arm"])) == ["none", "a:perplexity", "b:perplexity"]
    assert table["parameter/a:perplexity/strength"].notna().tolist() == [False, True] * 2 + [False] * 4
    assert table["strength"].notna().tolist() == [False, True] * 4


def test_other_data_makes_other_arms_and_other_configurations(home: Path) -> None:
    write(home, spec_of("a", ARMS[:1]), [COMPLETE] * 2)
    write(home, spec_of("b", ARMS[:1], data={"name": "digits", "train_size": 99}), [COMPLETE] * 2)
    relation = analyze(["a", "b"]).relation
    assert relation.arms == ("a:none", "b:none")
    assert (relation.trials, relation.configurations) == (4, 2)


def test_studies_of_different_tasks_are_refused(home: Path) -> None:
    write(home, spec_of("a"), [COMPLETE])
    write(home, spec_of("b"), [COMPLETE], task="regression")
    with pytest.raises(ConflictError, match=r"one by one \(a: classification, b: regression\)"):
        analyze(["a", "b"])
    assert not (home / "a" / "with-b").exists()


# What goes elsewhere


def test_the_analysis_is_attached_to_the_run_of_the_study(home: Path) -> None:
    folder = write(home, spec_of("a"), [COMPLETE] * 4)
    with open_study("a") as study:
        tracker = Tracker(study.ledger, study.record, study.folder, lambda trial, trajectory: {})
        tracker.start()
        assert tracker.close()
    analyze(["a"])
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    with open_study("a") as study:
        run = client.get_run(study.record.run_id)
        named = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "relation.json", "evidence-trials.parquet", "evidence-epochs.parquet"} <= named
    status = run.info.status
    assert client.get_run(run.info.run_id).info.status == status == "RUNNING"  # as the tracker left it


def test_without_mlflow_the_files_are_there_and_a_warning_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    folder = write(home, spec_of("a"), [COMPLETE] * 4, run_id="0" * 32)
    with caplog.at_level(logging.WARNING):
        files = analyze(["a"]).files
    assert all(path.exists() for path in files)
    assert f"did not take the analysis, which is in {folder}" in caplog.text


def test_a_study_that_mlflow_never_saw_is_analysed_in_silence(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_store.Store, "client", property(lambda self: pytest.fail("asked MLflow")))
    write(home, spec_of("a"), [COMPLETE] * 4)
    analyze(["a"])
    assert not caplog.records


def test_running_a_finished_study_again_keeps_what_was_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("a", ARMS[:1], search={"trials": 4})
    file = tmp_path / "a.yaml"
    file.write_text(dump_yaml(spec), encoding="utf-8")
    folder = write(home, spec, [COMPLETE] * 4)
    run_again(monkeypatch, file)
    assert not (folder / "relation.json").exists()  # nobody asked for it
    analyze(["a"])
    (folder / "relation.json").write_text("of other trials")
    attached = run_again(monkeypatch, file)
    assert relation_in(folder)["trials"] == 4
    assert f"sparsestudy run {file}" in (folder / "report.html").read_text(encoding="utf-8")
    assert attached == {"report.html", "best.yaml", "relation.json", *TABLES}


def run_again(monkeypatch: pytest.MonkeyPatch, file: Path) -> set[str]:
    """Run a study of which every trial is recorded; returns the names of the files its run in MLflow gets."""
    names: set[str] = set()
    tracker = SimpleNamespace(finish=lambda files, **_: names.update(files))
    launch = SimpleNamespace(tracker=tracker, interrupted=False, delivered=True)
    monkeypatch.setattr(operations, "train", lambda *_: launch)
    monkeypatch.setattr(operations, "pictured", lambda *_: [])
    operations.run(file)
    return names


def test_what_the_page_offers_next_is_kept(home: Path) -> None:
    folder = write(home, spec_of("a"), [COMPLETE] * 4)
    with open_study("a") as study:
        analyze_study(study, {"Run or continue this study": "sparsestudy run here.yaml"})
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "sparsestudy run here.yaml" in page
    assert "sparsestudy ui a" in page


# What matters


def test_importance_is_told_by_arm_or_why_not(home: Path) -> None:
    folder = write(home, spec_of("a"), [COMPLETE] * 60)
    write(home, spec_of("few"), [COMPLETE] * 12)
    analyze(["a"])
    found = relation_in(folder)["importance"]
    assert set(found["shares"]["perplexity"]) == {"perplexity/strength", "perplexity/targets/features.conv1"}
    assert math.isclose(sum(found["shares"]["perplexity"].values()), 1.0)
    assert {*found["shares"], *found["reasons"]} == {"perplexity", "all"}  # the control has no parameter
    few = analyze(["few"]).relation.importance
    assert few.reasons["perplexity"] == "6 complete trials, and it takes 10"


def test_the_schema_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "relation"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA == operations.relation_schema()
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_refuses_what_is_no_relation(home: Path) -> None:
    folder = write(home, spec_of("a"), [COMPLETE] * 2)
    analyze(["a"])
    relation = relation_in(folder)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    without = {key: value for key, value in relation.items() if key != "verdicts"}
    for wrong in ({**relation, "format": 2}, {**relation, "trials": "two"}, {**relation, "more": 1}, without):
        assert not validator.is_valid(wrong)


def test_the_schema_describes_every_field() -> None:
    described = [SCHEMA, *SCHEMA["$defs"].values()]
    missing = [
        f"{part['title']}.{name}"
        for part in described
        for name, value in part["properties"].items()
        if "description" not in value
    ]
    assert missing == []
