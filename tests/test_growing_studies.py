"""Studies that are stopped from elsewhere, resumed, tried again and extended, with real Ray, MLflow and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsestudy import operations, steering
from sparsestudy.cli import main
from sparsestudy.trial import TrialState
from tests.servers import Postgres, postgres
from tests.test_studies import TINY, mlflow_client, mlflow_runs, start, wait_for_trials, write

pytestmark = pytest.mark.study

SMALL: dict[str, Any] = {
    **TINY,
    "regularizers": [{"name": "none"}, {"name": "dropout", "strength": {"uniform": [0.1, 0.5]}}],
    "search": {**TINY["search"], "trials": 6},
    "measures": {"snapshots": "none"},
}
DECAY = {"name": "weight_decay", "strength": {"log_uniform": [1e-4, 1e-2]}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """A database server of its own, which all studies use."""
    with postgres() as own:
        monkeypatch.setenv("SPARSESTUDY_DATABASE_URL", own.database())
        yield own


@pytest.mark.faults
def test_a_study_on_a_server_that_restarts_is_stopped_and_resumed(
    server: Postgres, home: Path, tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is down for ten seconds; then somebody else says stop; the rest is trained here, without the file."""
    path = write(tmp_path, SMALL, name="far", training={"epochs": 80, "batch_size": 20})
    driver = start(path, home)
    wait_for_trials(home, "far", 1)
    server.stop()
    time.sleep(10)
    assert driver.poll() is None
    server.start()
    wait_for_trials(home, "far", 2)
    assert main(["stop", "far"]) == 0
    assert "stopped; " in capsys.readouterr().out
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "does not answer" in err
    assert "nothing is lost. To go on: sparsestudy run" in out
    path.unlink()
    outcome = operations.resume("far")
    assert Counter(t.state for t in outcome.trials) == {TrialState.COMPLETE: 6}
    assert all(t.epochs == 80 for t in outcome.trials)
    assert not [*home.rglob("ledger.db")]
    parent, children = mlflow_runs(home / "far", "far")
    assert [c.info.status for c in children] == ["FINISHED"] * 6
    assert parent.info.status == "FINISHED"
    history = mlflow_client(home / "far").get_metric_history(children[0].info.run_id, "train/loss")
    assert [m.step for m in history] == list(range(80))


def test_a_finished_study_grows(home: Path, tmp_path: Path, cluster: None) -> None:
    """By trials and by an arm; what was tried stays, and a study that asked for it all at once is the same."""
    path = write(tmp_path, SMALL, name="growing", search={**SMALL["search"], "trials": 2})
    first = operations.run(path)
    more = operations.run(path, ["search.trials=4"])
    assert list(more.trials[:2]) == list(first.trials)
    grown = write(tmp_path, SMALL, name="growing", regularizers=[*SMALL["regularizers"], DECAY])
    last = operations.run(grown)
    assert list(last.trials[:4]) == list(more.trials)
    assert [t.config.arm for t in last.trials] == ["none", "dropout"] * 2 + ["weight_decay"] * 2
    assert [t.version for t in last.trials] == [1, 1, 2, 2, 3, 3]
    assert Counter(t.state for t in last.trials) == {TrialState.COMPLETE: 6}
    with operations.open_study("growing") as study:
        assert [(n, spec.search.trials) for n, spec, _ in study.ledger.spec_versions(study.record.id)] == [
            (1, 2), (2, 4), (3, 6),
        ]  # fmt: skip
    assert operations.studies() == ["growing"]
    parent, children = mlflow_runs(last.folder, "growing")
    assert parent.info.status == "FINISHED"
    assert len(children) == 6


MODELS = '''
from pathlib import Path

from torch import nn


class Mendable(nn.Module):
    """Fails in its ninth training step for as long as a file is there."""

    def __init__(self, classes, broken):
        super().__init__()
        self.broken, self.steps = Path(broken), 0
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.output = nn.Linear(16, classes)

    def forward(self, inputs):
        self.steps += self.training
        if self.steps > 8 and self.broken.exists():
            raise RuntimeError("the disk is full")
        return self.output(self.features(inputs))


def mendable(classes, broken):
    return Mendable(classes, broken)
'''


def test_failed_trials_are_tried_again_in_their_own_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mendable_models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = tmp_path / "broken"
    broken.touch()
    model = {"name": "mendable_models:mendable", "arguments": {"broken": str(broken)}}
    path = write(tmp_path, SMALL, name="mended", model=model, search={**SMALL["search"], "trials": 2})
    driver = start(path, home)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "sparsestudy retry mended --failed" in err
    _, before = mlflow_runs(home / "mended", "mended")
    assert [c.info.status for c in before] == ["FAILED", "FAILED"]
    assert "the disk is full" in before[0].data.tags["sparsestudy.failure"]

    broken.unlink()
    assert steering.retry("mended", [0]) == [0]
    # In a process of its own: the workers of a Ray that is up already do not know the folder of the model.
    command = [sys.executable, "-m", "sparsestudy", "resume", "mended"]
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "trial 0" in again.stdout
    with operations.open_study("mended") as study:
        mended, other = study.trials()
    assert (mended.state, mended.attempts, mended.epochs) == (TrialState.COMPLETE, 2, 4)
    assert (other.state, other.attempts) == (TrialState.FAIL, 1)
    _, after = mlflow_runs(home / "mended", "mended")
    assert [c.info.run_id for c in after] == [c.info.run_id for c in before]
    assert [c.info.status for c in after] == ["FINISHED", "FAILED"]
    tags = after[0].data.tags
    assert (tags["sparsestudy.state"], tags["sparsestudy.attempts"]) == ("COMPLETE", "2")
    assert "sparsestudy.failure" not in tags
    assert "Traceback" not in tags.get("mlflow.note.content", "")
    history = mlflow_client(home / "mended").get_metric_history(after[0].info.run_id, "train/loss")
    assert [m.step for m in history] == [0, 1, 2, 3]
