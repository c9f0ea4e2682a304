"""The worker without a driver: what it reports at the end of a trial, and how it goes on with one that was begun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsestudy.scheduling import checkpoints
from sparsestudy.scheduling.worker import ENDED, EPOCHS, METRIC, PARCEL, SNAPSHOT, TrialWorker
from sparsestudy.snapshot import Snapshot
from sparsestudy.study import CheckpointsSpec, ModelSpec
from sparsestudy.training import models
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Measurement
from tests.training.test_loop import comparable, config


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


class Small(torch.nn.Module):
    """A network for which there is room for 16 examples."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.output = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, classes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and len(inputs) > 16:
            raise torch.OutOfMemoryError(f"no room for {len(inputs)} examples")
        answers: torch.Tensor = self.output(inputs)
        return answers


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    def last(parts: int, *methods: dict[str, Any]) -> dict[str, Any]:
        trial = config(*methods, epochs=1, batch_size=60, model=ModelSpec(name="tests.scheduling.test_worker:Small"))
        worker = TrialWorker({"trial": trial.model_dump_json(), "metric": "validation/loss", "rungs": [],
                              "snapshot": False, "parts": parts})  # fmt: skip
        found: dict[str, Any] = json.loads(worker.step()[ENDED])
        return found

    assert last(1)["class"] == "memory"
    assert (last(2)["class"], last(2)["message"]) == ("memory", "no room for 30 examples")
    assert last(4) == {"complete": True}
    refused = last(4, {"method": "decov", "strength": 0.1})
    assert (refused["class"], refused["kind"]) == ("error", "ValueError")
    assert refused["message"].endswith(
        "with each other; tried in parts because the whole batch did not fit into memory"
    )


# Going on


RUNGS = [2, 4]


def going_on(
    folder: Path, attempt: int = 1, recorded: int = 0, rungs: Sequence[int] = (), **changes: Any
) -> TrialWorker:
    """A worker of one attempt at a trial of eight epochs that is kept after every one."""
    trial = config({"method": "isda", "strength": 0.3}, epochs=8, **changes)
    kept = checkpoints.task(str(folder), 0, attempt, CheckpointsSpec(seconds=None, epochs=1))
    plain = {"trial": trial.model_dump_json(), "metric": "validation/loss", "rungs": list(rungs), "snapshot": False}
    return TrialWorker({**plain, "checkpoints": kept, "recorded": recorded})


def epochs_of(report: dict[str, Any]) -> list[int]:
    return [m["epoch"] for m in json.loads(report[PARCEL])]


def to_the_end(worker: TrialWorker) -> list[dict[str, Any]]:
    reports = [worker.step()]
    while not reports[-1]["done"]:
        reports.append(worker.step())
    return reports


def reported(reports: Sequence[dict[str, Any]]) -> list[Measurement]:
    return [Measurement.from_dict(m) for report in reports for m in json.loads(report[PARCEL])]


def whole() -> list[Measurement]:
    return [*Trainer(config({"method": "isda", "strength": 0.3}, epochs=8))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "0").iterdir())


def test_the_next_attempt_goes_on_bit_for_bit(tmp_path: Path) -> None:
    first = going_on(tmp_path)
    before = [first.step() for _ in range(4)]
    # What a step begins with has been recorded; the fourth report had not been when the worker died.
    assert names(tmp_path) == ["000001-00000002.checkpoint", "000001-00000003.checkpoint"]
    after = to_the_end(going_on(tmp_path, attempt=2, recorded=4))
    assert [m.epoch for m in reported(after)] == [3, 4, 5, 6, 7]
    assert comparable(reported([*before[:3], *after])) == comparable(whole())


def test_a_checkpoint_older_than_what_is_recorded_repeats_the_same_epochs(tmp_path: Path) -> None:
    first = going_on(tmp_path)
    before = [first.step() for _ in range(6)]
    (tmp_path / "0" / "000001-00000005.checkpoint").unlink()
    after = to_the_end(going_on(tmp_path, attempt=2, recorded=6))
    assert [m.epoch for m in reported(after)] == [4, 5, 6, 7]
    repeated = reported(after)[:2]
    assert comparable(repeated) == comparable(reported(before)[4:])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    first = going_on(tmp_path)
    for _ in range(6):
        first.step()
    latest = tmp_path / "0" / "000001-00000005.checkpoint"
    latest.write_bytes(latest.read_bytes()[:-7])
    assert epochs_of(going_on(tmp_path, attempt=2, recorded=6).step()) == [4]
    for path in (tmp_path / "0").iterdir():
        path.write_bytes(b"")
    assert epochs_of(going_on(tmp_path, attempt=3, recorded=6).step()) == [0]


def test_stopped_in_good_order_it_loses_no_epoch(tmp_path: Path) -> None:
    """The last report was on its way when the study was stopped: it travels with the checkpoint."""
    first = going_on(tmp_path)
    before = [first.step() for _ in range(5)]
    first.cleanup()
    assert names(tmp_path)[-1] == "000001-00000005.checkpoint"
    after = to_the_end(going_on(tmp_path, attempt=2, recorded=4))
    assert [m.epoch for m in reported(after)] == [4, 5, 6, 7]
    assert json.loads(after[0][PARCEL])[0] == json.loads(before[4][PARCEL])[0]  # its time and all
    assert comparable(reported([*before[:4], *after])) == comparable(whole())


def test_a_checkpoint_ahead_of_the_record_is_not_used(tmp_path: Path) -> None:
    """An epoch that nobody recorded would be missing for ever."""
    first = going_on(tmp_path)
    for _ in range(4):
        first.step()
    assert epochs_of(going_on(tmp_path, attempt=2, recorded=2).step()) == [2]
    assert epochs_of(going_on(tmp_path, attempt=3, recorded=1).step()) == [0]


def test_a_checkpoint_of_another_trial_is_not_used(tmp_path: Path) -> None:
    first = going_on(tmp_path)
    for _ in range(4):
        first.step()
    assert epochs_of(going_on(tmp_path, attempt=2, recorded=4, seed=5).step()) == [0]


def test_a_trial_that_ended_leaves_none_behind_at_the_end(tmp_path: Path) -> None:
    first = going_on(tmp_path)
    to_the_end(first)
    before = names(tmp_path)
    first.cleanup()
    assert names(tmp_path) == before
    assert "000001-00000008.checkpoint" not in before


def test_the_scheduler_is_told_of_the_rungs_again(tmp_path: Path) -> None:
    """Successive halving of the next launch knows nothing of this trial's past."""
    first = going_on(tmp_path, rungs=RUNGS)
    before = [first.step() for _ in range(6)]
    at_rungs = {report[EPOCHS]: report[METRIC] for report in before if report[EPOCHS] in RUNGS}
    second = going_on(tmp_path, attempt=2, recorded=6, rungs=RUNGS)
    after = [second.step() for _ in range(3)]
    assert [(report[EPOCHS], report[PARCEL]) for report in after[:2]] == [(2, "[]"), (4, "[]")]
    assert {report[EPOCHS]: report[METRIC] for report in after[:2]} == at_rungs
    assert not any(report["done"] or report[ENDED] for report in after)
    assert epochs_of(after[2]) == [5]


def test_a_network_that_changed_between_launches_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = going_on(tmp_path)
    for _ in range(4):
        first.step()
    original = models.build
    monkeypatch.setattr(models, "build", lambda *a: torch.nn.Sequential(original(*a), torch.nn.Identity()))
    assert epochs_of(going_on(tmp_path, attempt=2, recorded=4).step()) == [0]
    assert "starts again: the checkpoint belongs to another network" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [(MemoryError("no room"), "memory"), (OSError("gone"), "data"), (KeyError("x"), "error")],
)
def test_failures_come_with_their_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, expected: str
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(models, "build", fails)
    ended = json.loads(going_on(tmp_path).step()[ENDED])
    assert (ended["kind"], ended["class"]) == (type(error).__name__, expected)


# Tune's own checkpoints


def test_another_trial_goes_on_from_what_tune_saved(tmp_path: Path) -> None:
    """Weights, momentum and epochs are the donor's, and so are the results if the configuration is."""
    donor = going_on(tmp_path / "donor")
    for _ in range(3):
        donor.step()
    donor.save_checkpoint(str(tmp_path))
    heir = going_on(tmp_path / "heir", recorded=0)
    heir.step()
    heir.load_checkpoint(str(tmp_path))
    assert comparable(reported(to_the_end(heir))) == comparable(whole())[3:]


def test_nothing_is_saved_before_the_first_epoch(tmp_path: Path) -> None:
    worker = going_on(tmp_path / "kept")
    worker.save_checkpoint(str(tmp_path))
    assert [*tmp_path.iterdir()] == []
    worker.load_checkpoint(str(tmp_path))
    assert epochs_of(worker.step()) == [0]
