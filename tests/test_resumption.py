"""Workers that die in the middle of trials: what goes on, from where, and that nobody can tell from the results."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparsestudy import operations
from sparsestudy.training.loop import fit
from tests.test_studies import TINY, start, write
from tests.training.test_loop import comparable

pytestmark = [pytest.mark.study, pytest.mark.faults]

MODELS = '''
import os
import time
from pathlib import Path

from torch import nn


class Counted(nn.Sequential):
    """Adds its process's number to a file in every training step, the first of which fails if it is to."""

    def __init__(self, folder, how, *modules):
        super().__init__(*modules)
        self.folder, self.how = Path(folder), how

    def forward(self, inputs):
        if self.training:
            self.fail()
            with open(self.folder / f"{self.how}.steps", "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(0.01)  # so that no machine is done with the trial before it is stopped
        return super().forward(inputs)

    def fail(self):
        begun = self.folder / f"{self.how}.begun"
        if self.how == "large":
            raise MemoryError("too large")
        if self.how == "unlucky" and not begun.exists():
            begun.touch()
            raise OSError("the file server does not answer")


def counted(classes, folder, how="well"):
    return Counted(folder, how, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
'''
EPOCHS, STEPS, EVERY = 120, 3, 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's models, on the path of this process and of those it starts."""
    (tmp_path / "resumed_models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    return tmp_path


def study(folder: Path, *hows: str, **checkpoints: Any) -> dict[str, Any]:
    """A trial each of those that train well, whose data cannot be read the first time, or that do not fit."""
    choices = {"model.arguments.how": {"choice": [*hows]}}
    return {
        **TINY,
        "name": "shaken",
        "model": {"name": "resumed_models:counted", "arguments": {"folder": str(folder)}},
        "training": {"epochs": EPOCHS, "batch_size": 20},
        "regularizers": [{"name": "spectral_penalty", "strength": 0.01}],
        "search": {"sampler": "grid", "parameters": choices},
        "measures": {"names": ["perplexity"], "every": 50, "snapshots": "none"},
        "checkpoints": checkpoints,
    }


def steps_of(path: Path) -> list[str]:
    """Numbers of the processes that took them; the last line may not be whole yet."""
    return path.read_text().splitlines()[:-1] if path.exists() else []


class Killer:
    """Sends a signal to the worker each time that the trial has got on by three intervals."""

    def __init__(self, folder: Path, *signals: signal.Signals) -> None:
        self._steps, self._left, self._at = folder / "well.steps", [*signals], 3 * EVERY
        self.killed: list[int] = []

    def watch(self) -> None:
        steps = steps_of(self._steps)
        if not self._left or len(steps) < self._at * STEPS or int(steps[-1]) in self.killed:
            return
        self.killed.append(int(steps[-1]))
        os.kill(self.killed[-1], self._left.pop(0))
        self._at = len(steps) // STEPS + 3 * EVERY


def test_what_fails_is_tried_again_and_nobody_can_tell(home: Path, folder: Path) -> None:
    """By SIGKILL all since the checkpoint is lost, by SIGTERM nothing; trials go on in the same launch."""
    killer = Killer(folder, signal.SIGKILL, signal.SIGTERM)
    driver = start(write(folder, study(folder, "well", "unlucky", "large", seconds=None, epochs=EVERY)), home)
    while driver.poll() is None:
        killer.watch()
        time.sleep(0.02)
    out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    taken = Counter((folder / "well.steps").read_text().split())
    assert (len(killer.killed), len(taken)) == (2, 3)
    # At most the interval and the epoch under way.
    assert 0 <= sum(taken.values()) / STEPS - EPOCHS <= EVERY + 1
    with operations.open_study("shaken") as opened:
        trials = {t.config.parameters["model.arguments.how"]: t for t in opened.trials()}
        outcomes = {how: opened.ledger.outcomes(opened.record.id, t.number) for how, t in trials.items()}
        trajectory = opened.trajectory(trials["well"].number)
    died = "infrastructure: WorkerDied: the worker process died; out of memory, killed, or crashed in native code"
    assert outcomes == {
        "well": [died, died, "COMPLETE"],
        "unlucky": ["data: OSError: the file server does not answer", "COMPLETE"],
        "large": ["memory: MemoryError: too large"] * 4 + ["MemoryError"],  # in 1, 2, 4, 8 and 16 parts
    }
    assert [m.epoch for m in trajectory] == [*range(EPOCHS)]
    assert comparable(trajectory) == comparable(fit(trials["well"].config)[1])
    assert not (home / "shaken" / "checkpoints" / "shaken").exists()


def test_stopped_with_ctrl_c_no_epoch_is_trained_twice(home: Path, folder: Path) -> None:
    """A last checkpoint is taken on the way out: by its interval none would have been due."""
    path = write(folder, study(folder, "well", seconds=1000))
    driver = start(path, home)
    while driver.poll() is None and len(steps_of(folder / "well.steps")) < 3 * EVERY * STEPS:
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, out + err
    (kept,) = (home / "shaken" / "checkpoints" / "shaken" / "0").iterdir()
    stopped_after = len((folder / "well.steps").read_text().split())
    assert kept.name == f"000001-{stopped_after // STEPS:08d}.checkpoint"
    driver = start(path, home)
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, out + err
    taken = Counter((folder / "well.steps").read_text().split())
    assert (len(taken), sum(taken.values())) == (2, EPOCHS * STEPS)
    with operations.open_study("shaken") as opened:
        (trial,) = opened.trials()
        trajectory = opened.trajectory(0)
    assert comparable(trajectory) == comparable(fit(trial.config)[1])
