"""Whole studies whose trials are trained by two processes each, with real Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray

from sparsestudy import operations
from sparsestudy.errors import ConflictError, NotFoundError
from sparsestudy.scheduling.tune import slots
from sparsestudy.study import StudySpec
from sparsestudy.training.loop import fit
from sparsestudy.trial import TrialConfig, TrialState
from tests.test_studies import TINY, start, write

pytestmark = pytest.mark.study

JOINT: dict[str, Any] = {
    **TINY,
    "name": "joint",
    "regularizers": [{"name": "perplexity", "strength": {"choice": [0.1, 1.0]}}],
    "search": {
        "sampler": "grid",
        "parameters": {"training.optimizer.lr": {"choice": [0.05, 1e-6]}},
        "objectives": [{"metric": "best/validation/loss", "direction": "minimize"}],
    },
    "training": {"epochs": 4, "batch_size": 5},
    "resources": {"workers": 2},
}


def ranks() -> set[str]:
    """Processes started by others of this folder, as the ranks of a trial are."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if b"spawn_main" in command and (process / "cwd").resolve() == Path.cwd():
                found.add(process.name)
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def assert_nothing_is_left(before: set[str]) -> None:
    """Neither a process nor a part of the cluster, within seconds."""
    deadline = time.monotonic() + 30
    while ranks() - before or ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, (ranks() - before, ray.available_resources())
        time.sleep(0.2)


def test_two_processes_a_trial_stopped_early(cluster: None, home: Path, tmp_path: Path) -> None:
    """A trial that hardly learns comes after one that does, and is stopped at the first rung."""
    before = ranks()
    outcome = operations.run(
        write(tmp_path, JOINT, stopping={"rule": "asha", "grace_epochs": 1, "reduction_factor": 2})
    )
    states = Counter(t.state for t in outcome.trials)
    assert states[TrialState.COMPLETE] >= 1
    assert states[TrialState.PRUNED] >= 1
    assert sum(states.values()) == 4
    assert_nothing_is_left(before)
    with operations.open_study("joint") as study:
        for trial in outcome.trials:
            assert trial.config.workers == 2
            recorded = study.trajectory(trial.number)
            _, expected = fit(trial.config)
            for measurement, other in zip(recorded, expected, strict=trial.state is TrialState.COMPLETE):
                assert measurement.scalars() == pytest.approx(other.scalars(), rel=1e-5, abs=1e-5)
    assert {path.name for path in (outcome.folder / "snapshots").iterdir()} == {
        f"{t.number}.npz" for t in outcome.trials if t.state is TrialState.COMPLETE
    }


def test_a_process_that_is_killed_fails_its_trial_and_not_the_next(cluster: None, home: Path, tmp_path: Path) -> None:
    before = ranks()
    spec = {
        **JOINT,
        "name": "killed",
        "budget": {"retries": 0},
        "model": {"name": "tests.troubled_network:build", "arguments": {"trouble": ""}},
        "regularizers": [{"name": "none"}],
        "search": {"sampler": "grid", "parameters": {"model.arguments.trouble": {"choice": ["kill", ""]}}},
    }
    outcome = operations.run(write(tmp_path, spec))
    killed, good = outcome.trials
    assert (killed.state, good.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert killed.failure is not None
    assert killed.failure.kind == "WorkerDied"
    assert killed.failure.message.startswith("process 2 of 2 was ended by SIGKILL")
    assert good.epochs == 4
    assert_nothing_is_left(before)


def test_a_trial_of_which_a_process_was_killed_goes_on(cluster: None, home: Path, tmp_path: Path) -> None:
    """In its third epoch; from the checkpoint after the second, in new processes, with the numbers of one process."""
    before = ranks()
    trouble = {"trouble": "kill once", "step": 30, "marker": str(tmp_path / "killed")}
    spec = {
        **JOINT,
        "name": "resumed",
        "model": {"name": "tests.troubled_network:build", "arguments": trouble},
        "regularizers": [{"name": "weight_decay", "strength": 0.01}],
        "search": {"sampler": "grid"},
        "checkpoints": {"epochs": 1},
    }
    (trial,) = operations.run(write(tmp_path, spec)).trials
    assert (tmp_path / "killed").exists()
    assert (trial.state, trial.attempts, trial.epochs) == (TrialState.COMPLETE, 2, 4)
    _, expected = fit(trial.config)
    with operations.open_study("resumed") as study:
        recorded = study.trajectory(0)
    for measurement, other in zip(recorded, expected, strict=True):
        assert measurement.scalars() == pytest.approx(other.scalars(), rel=1e-5, abs=1e-5)
    assert_nothing_is_left(before)


@pytest.mark.faults
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_no_process_outlives_the_driver(end: signal.Signals, home: Path, tmp_path: Path) -> None:
    """With a Ray of its own, in the middle of a trial."""
    before = ranks()
    spec = {**JOINT, "name": "endless", "training": {"epochs": 100000, "batch_size": 20}}
    driver = start(write(tmp_path, spec), home)
    while len(ranks() - before) < 2:
        assert driver.poll() is None
        time.sleep(0.2)
    wait_for_epochs("endless", 1)
    driver.send_signal(end)
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == (130 if end is signal.SIGINT else -signal.SIGKILL), out + err
    deadline = time.monotonic() + 30
    while left := ranks() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def wait_for_epochs(name: str, epochs: int) -> None:
    """Until a trial of the study has recorded that many."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        with contextlib.suppress(NotFoundError), operations.open_study(name) as study:
            if any(trial.epochs >= epochs for trial in study.trials()):
                return
        time.sleep(0.2)
    pytest.fail(f"no trial of {name} has come to epoch {epochs}")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({"workers": 2}, 1), ({"workers": 2, "placement": "cluster"}, 1), ({"workers": 1}, 2), ({"concurrent": 1}, 1)],
)
def test_slots_count_every_worker(cluster: None, resources: dict[str, Any], expected: int) -> None:
    assert ray.cluster_resources()["CPU"] == 2
    assert slots(StudySpec.from_dict({**JOINT, "resources": resources})) == expected


@pytest.mark.parametrize("placement", ["node", "cluster"])
def test_a_trial_that_fits_nowhere_is_refused(cluster: None, placement: str) -> None:
    resources = {"workers": 3, "cpus": 2, "placement": placement}
    with pytest.raises(ConflictError, match="a trial needs 6 CPUs and 0 GPUs, the cluster has 2 and 0; change"):
        slots(StudySpec.from_dict({**JOINT, "resources": resources}))


def test_processes_on_two_machines(tmp_path: Path, home: Path) -> None:
    """In a cluster of its own, of two machines: a process that dies, one that raises, and a trial that is well."""
    spec = {
        **JOINT,
        "name": "spread",
        "budget": {"retries": 0},
        "model": {"name": "tests.troubled_network:build", "arguments": {"trouble": ""}},
        "regularizers": [{"name": "weight_decay", "strength": 0.01}],
        "search": {"sampler": "grid", "parameters": {"model.arguments.trouble": {"choice": ["kill", "error", ""]}}},
        "resources": {"workers": 2, "placement": "cluster"},
    }
    command = [sys.executable, "-m", "tests.scheduling.cluster_of_two", str(write(tmp_path, spec))]
    environment = {**os.environ, "SPARSESTUDY_HOME": str(home)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert [trial["state"] for trial in found["trials"]] == ["FAIL", "FAIL", "COMPLETE"]
    dead = "process 2 of 2 has ended; out of memory, killed, or crashed in native code"
    assert [trial["failure"] for trial in found["trials"]] == [
        ["WorkerDied", dead],
        ["ZeroDivisionError", "step 3 divides by zero"],
        [],
    ]
    _, expected = fit(TrialConfig.model_validate_json(found["trials"][2]["config"]))
    assert found["trials"][2]["final"] == pytest.approx(expected[-1].train_loss, rel=1e-5)
    assert found["free"] == 2
