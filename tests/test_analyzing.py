"""The verb analyze on a recorded study: the card, the files, and what it says where nothing can be said."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sparsestudy.analyzing import analyze
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError, NotFoundError
from sparsestudy.tracking.ledger import Ledger
from tests.test_gathering import SPEC, USED, record


def test_analyze_writes_the_relation_and_the_tables(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(home / SPEC.name).ledger.close()
    assert main(["analyze", SPEC.name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 trials of 3 configurations in 2 arms; 4 left out\n")
    assert "undecided  Penalising activation sparsity beats dropout." in printed
    folder = home / SPEC.name
    relation = json.loads((folder / "relation.json").read_text())
    assert (relation["format"], relation["trials"], relation["configurations"]) == (1, 4, 3)
    assert len(relation["excluded"]) == 4
    assert len(relation["verdicts"]) == 8
    rows = pd.read_parquet(folder / "evidence-trials.parquet")
    assert rows["trial"].tolist() == USED
    assert printed.count("written  ") == 3


def test_analyzing_again_replaces_the_files(home: Path) -> None:
    record(home / SPEC.name).ledger.close()
    first = analyze([SPEC.name]).files[0].read_bytes()
    assert analyze([SPEC.name, SPEC.name]).files[0].read_bytes() == first


def test_a_study_without_usable_trials_says_so(home: Path) -> None:
    ledger = Ledger.in_folder(home / SPEC.name)
    ledger.create_study(SPEC.name, SPEC)
    ledger.close()
    with pytest.raises(ConflictError, match=r"no trial of s can be used: 0 left out"):
        analyze([SPEC.name])
    assert not (home / SPEC.name / "relation.json").exists()


def test_an_unknown_study_is_named(home: Path) -> None:
    with pytest.raises(NotFoundError, match="no study named 'nothing'"):
        analyze(["nothing"])
