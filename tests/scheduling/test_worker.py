"""The worker without a driver: what it reports at the end of a trial."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparsestudy.scheduling.worker import ENDED, PARCEL, SNAPSHOT, TrialWorker
from sparsestudy.snapshot import Snapshot
from sparsestudy.training.loop import Trainer
from tests.training.test_loop import config


def last_report(**task: Any) -> dict[str, Any]:
    trial = config(epochs=2).model_dump_json()
    worker = TrialWorker({"trial": trial, "metric": "validation/loss", "rungs": [], "snapshot": True, **task})
    reports = [worker.step()]
    while not reports[-1]["done"]:  # an epoch may take longer than a parcel
        assert reports[-1][SNAPSHOT] == b""
        reports.append(worker.step())
    assert [m["epoch"] for report in reports for m in json.loads(report[PARCEL])] == [0, 1]
    return reports[-1]


def test_a_complete_trial_comes_with_its_snapshot() -> None:
    report = last_report()
    trainer = Trainer(config(epochs=2))
    assert len([*trainer]) == 2
    assert Snapshot.from_bytes(report[SNAPSHOT]).to_bytes() == trainer.snapshot().to_bytes()
    assert json.loads(report[ENDED]) == {"complete": True}


def test_no_snapshot_is_taken_unasked() -> None:
    assert last_report(snapshot=False)[SNAPSHOT] == b""


def test_a_trial_whose_snapshot_fails_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Trainer) -> Snapshot:
        raise MemoryError("no room for pictures")

    monkeypatch.setattr(Trainer, "snapshot", fails)
    report = last_report()
    assert report[SNAPSHOT] == b""
    assert json.loads(report[ENDED]) == {"complete": True, "no_snapshot": "MemoryError: no room for pictures"}
