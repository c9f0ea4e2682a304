"""Whole studies with real Ray, Optuna, MLflow and SQLite: what a user gets, and how it ends when things go wrong."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import mean_squared_error, r2_score

from sparsestudy import operations
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError
from sparsestudy.operations import Outcome
from sparsestudy.training import data
from sparsestudy.training.loop import Trainer, fit
from sparsestudy.trial import TrialState

pytestmark = pytest.mark.study

TINY: dict[str, Any] = {
    "name": "tiny",
    "question": "Does it run?",
    "data": {"name": "digits", "train_size": 60, "splits": {"search": 50, "selection": 50, "test": 50}},
    "model": {"name": "convnet", "arguments": {"channels": [4, 6], "dense": 32, "pool": [True, True]}},
    "training": {"epochs": 4, "batch_size": 20},
    "regularizers": [
        {"name": "none"},
        {"name": "weight_decay", "strength": {"log_uniform": [1e-4, 1e-2]}},
        {"name": "dropout", "strength": {"uniform": [0.1, 0.5]}},
        {"name": "l1_activity", "strength": 1e-5},
        {"name": "perplexity", "strength": {"choice": [0.5, 2.0]}, "targets": {"features.*": {"uniform": [0.2, 0.6]}}},
        {
            "name": "both",
            "combine": [
                {"method": "dropout", "strength": 0.2},
                {"method": "perplexity", "strength": {"uniform": [0, 1]}},
            ],
        },
    ],
    "search": {
        "sampler": "random",
        "arms": "balanced",
        "trials": 12,
        "parameters": {"training.optimizer.lr": {"log_uniform": [0.005, 0.03]}},
    },
}


PICTURES = {"inside-sparsity.png", "inside-correlation.png", "inside-maps.png"}


def write(folder: Path, spec: dict[str, Any], **changes: Any) -> Path:
    path = folder / f"{spec['name']}.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A small study over every method, run once for all tests that only look."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSESTUDY_HOME", str(folder / "results"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return operations.run(write(folder, TINY)), folder


@pytest.fixture
def tiny_home(tiny: tuple[Outcome, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSESTUDY_HOME", str(tiny[1] / "results"))
    return tiny[1]


def mlflow_client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def mlflow_runs(folder: Path, study: str) -> tuple[Any, list[Any]]:
    """The parent run and the children of a study, by trial number."""
    client = mlflow_client(folder)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if r.data.tags["sparsestudy.kind"] == "study"]
    children = [r for r in runs if r.data.tags["sparsestudy.kind"] == "trial"]
    return parent, sorted(children, key=lambda r: int(r.data.tags["sparsestudy.trial"]))


def test_every_trial_completes_in_its_arm(tiny: tuple[Outcome, Path]) -> None:
    outcome, _ = tiny
    assert Counter(t.state for t in outcome.trials) == {TrialState.COMPLETE: 12}
    arms = [arm["name"] for arm in TINY["regularizers"]]
    assert Counter(t.config.arm for t in outcome.trials) == dict.fromkeys(arms, 2)
    assert all(t.epochs == 4 and t.attempts == 1 for t in outcome.trials)
    assert outcome.delivered
    assert not outcome.interrupted


def test_a_trial_repeated_alone_gives_the_same_numbers(tiny: tuple[Outcome, Path], tiny_home: Path) -> None:
    """Bit for bit, in this process, from the recorded configuration: one trial of each arm."""
    outcome, _ = tiny
    with operations.open_study("tiny") as study:
        for trial in outcome.trials[:6]:
            _, again = fit(trial.config)
            recorded = study.trajectory(trial.number)
            clean = [{**m.to_dict(), "seconds": 0, "timestamp": 0} for m in recorded]
            assert [{**m.to_dict(), "seconds": 0, "timestamp": 0} for m in again] == clean


def test_mlflow_has_one_parent_and_one_run_per_trial(tiny: tuple[Outcome, Path]) -> None:
    outcome, _ = tiny
    parent, children = mlflow_runs(outcome.folder, "tiny")
    assert parent.info.run_name == "tiny"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "Does it run?"
    assert parent.data.tags["sparsestudy.version.torch"].startswith("2.")
    assert [int(c.data.tags["sparsestudy.trial"]) for c in children] == list(range(12))
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {c.info.status for c in children} == {"FINISHED"}


def test_mlflow_params_are_those_of_the_arm_only(tiny: tuple[Outcome, Path]) -> None:
    outcome, _ = tiny
    _, children = mlflow_runs(outcome.folder, "tiny")
    own = {
        "none": set(),
        "weight_decay": {"weight_decay/strength"},
        "dropout": {"dropout/strength"},
        "l1_activity": set(),
        "perplexity": {
            "perplexity/strength",
            "perplexity/targets/features.conv1",
            "perplexity/targets/features.conv2",
        },
        "both": {"both/perplexity/strength"},
    }
    for trial, run in zip(outcome.trials, children, strict=True):
        assert set(run.data.params) == {"arm", "seed", "training.optimizer.lr"} | own[trial.config.arm]
        for name, value in trial.config.parameters.items():
            assert run.data.params[name] == str(value)
            assert run.data.tags[f"sparsestudy.parameter.{name}"] == str(value)
    assert children[4].info.run_name.startswith("perplexity·λ")
    assert "conv1 τ0." in children[4].info.run_name


def test_mlflow_series_have_one_point_per_epoch(tiny: tuple[Outcome, Path]) -> None:
    outcome, _ = tiny
    client = mlflow_client(outcome.folder)
    _, children = mlflow_runs(outcome.folder, "tiny")
    with_home = {t.number: t for t in outcome.trials}
    for run in children[:3]:
        trial = with_home[int(run.data.tags["sparsestudy.trial"])]
        for key in ("train/loss", "validation/accuracy", "gap/loss", "penalty", "learning_rate"):
            history = client.get_metric_history(run.info.run_id, key)
            assert [m.step for m in history] == [0, 1, 2, 3], key
        for layer in ("conv1", "conv2", "dense1"):
            history = client.get_metric_history(run.info.run_id, f"sparsity/perplexity/{layer}")
            assert [m.step for m in history] == [0, 1, 2, 3]
            assert all(0 <= m.value < 1 for m in history)
        last = client.get_metric_history(run.info.run_id, "validation/accuracy")[-1].value
        assert run.data.metrics["final/validation/accuracy"] == last == trial.headlines["final/validation/accuracy"]
        assert run.data.metrics["best/validation/accuracy"] == trial.values[0]
        assert 0 <= run.data.metrics["best/sparsity/conv1"] < 1


def test_mlflow_artifacts_of_a_trial(tiny: tuple[Outcome, Path], tmp_path: Path) -> None:
    outcome, _ = tiny
    client = mlflow_client(outcome.folder)
    parent, children = mlflow_runs(outcome.folder, "tiny")
    arms = {t.config.arm: t.number for t in reversed(outcome.ranking)}  # the best of each arm comes last, and stays
    for child in children:
        pictured = int(child.data.tags["sparsestudy.trial"]) in arms.values()
        files = {f.path for f in client.list_artifacts(child.info.run_id)}
        assert files == {"trajectory.parquet", "sparsity.png"} | (PICTURES if pictured else set())
    table = pd.read_parquet(client.download_artifacts(children[0].info.run_id, "trajectory.parquet", str(tmp_path)))
    # 4 epochs x 2 probe sets x (2 convolutions with 7 values each, 1 dense layer with 5)
    assert len(table) == 4 * 2 * (2 * 7 + 5)
    assert set(table["split"]) == {"train", "validation"}
    assert set(table["layer"]) == {"features.conv1", "features.conv2", "classifier.dense1"}
    assert {"perplexity", "perplexity_inter", "perplexity_intra", "perplexity_image"} <= set(table["measure"])
    assert {"zero_fraction", "dead_fraction"} <= set(table["measure"])
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"study.yaml", "environment.txt", "report.html", "best.yaml"}


def test_snapshots_are_those_of_the_trained_networks(tiny: tuple[Outcome, Path]) -> None:
    """Bit for bit, of the network that the recorded configuration trains here."""
    outcome, _ = tiny
    assert {path.name for path in (outcome.folder / "snapshots").iterdir()} == {f"{n}.npz" for n in range(12)}
    best = outcome.ranking[0]
    trainer = Trainer(best.config)
    assert len([*trainer]) == 4
    recorded = (outcome.folder / "snapshots" / f"{best.number}.npz").read_bytes()
    assert recorded == trainer.snapshot().to_bytes()
    page = outcome.report.read_text(encoding="utf-8")
    assert "Inside the best network" in page
    assert "on each of 60 training and 50 validation examples" in page


def test_running_a_finished_study_again_trains_nothing(tiny: tuple[Outcome, Path], tiny_home: Path) -> None:
    """Nor does it mind that a snapshot is damaged and another one gone."""
    before, folder = tiny
    damaged, gone = (before.folder / "snapshots" / f"{t.number}.npz" for t in before.ranking[:2])
    kept = damaged.read_bytes(), gone.read_bytes()
    damaged.write_bytes(kept[0][:-100])
    gone.unlink()
    try:
        again = operations.run(folder / "tiny.yaml")
    finally:
        damaged.write_bytes(kept[0])
        gone.write_bytes(kept[1])
    assert again.study == "tiny"
    assert list(again.trials) == list(before.trials)
    _, children = mlflow_runs(again.folder, "tiny")
    assert len(children) == 12
    assert "there is no snapshot of it that can be read" in again.report.read_text(encoding="utf-8")


def test_a_changed_file_is_refused_with_the_difference(tiny: tuple[Outcome, Path], tiny_home: Path) -> None:
    with pytest.raises(ConflictError) as caught:
        operations.run(tiny_home / "tiny.yaml", ["training.epochs=5", "data.label_noise=0.1"])
    assert str(caught.value).splitlines() == [
        "study 'tiny' was started from a different file:",
        "  data.label_noise: (default) -> 0.1",
        "  training.epochs: 4 -> 5",
        "run with --new to start another version beside it, or undo the change to continue it",
    ]
    assert operations.studies() == ["tiny"]


def test_best_yaml_runs_and_gives_the_best_trial_again(tiny: tuple[Outcome, Path], home: Path, cluster: None) -> None:
    outcome, _ = tiny
    assert home.exists() is False
    again = operations.run(outcome.best)
    (trial,) = again.trials
    best = outcome.ranking[0]
    assert (trial.state, trial.values, trial.config.seed) == (TrialState.COMPLETE, best.values, best.config.seed)
    assert trial.headlines == best.headlines
    assert again.study == "tiny-best"


def test_the_outcome_names_the_best_trial(tiny: tuple[Outcome, Path]) -> None:
    outcome, _ = tiny
    best = max(outcome.trials, key=lambda t: (t.values[0], -t.number))
    assert outcome.ranking[0] == best
    page = outcome.report.read_text(encoding="utf-8")
    assert "Does it run?" in page
    assert f"trial {best.number} of arm {best.config.arm}" in outcome.summary
    frame = pd.read_parquet(outcome.folder / "trials.parquet")
    assert len(frame) == 12
    assert frame.loc[best.number, "best/validation/accuracy"] == best.values[0]


def test_looking_at_a_study_from_the_command_line(
    tiny: tuple[Outcome, Path], tiny_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, _ = tiny
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed
    assert "12/12" in listed
    assert "done" in listed
    assert main(["status", "tiny"]) == 0
    assert "12 complete; 12 planned" in capsys.readouterr().out
    assert main(["trials", "tiny"]) == 0
    assert capsys.readouterr().out.count("COMPLETE") == 12
    assert main(["best", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert f"trial {outcome.ranking[0].number}" in shown
    assert "S conv1" in shown
    assert main(["show", "tiny", "4"]) == 0
    shown = capsys.readouterr().out
    assert "perplexity/targets/features.conv1 = " in shown
    assert "S dense1" in shown
    assert main(["show", "tiny", "44"]) == 2
    assert "there is no trial 44" in capsys.readouterr().err
    assert main(["status", "tny"]) == 2
    assert "no study named 'tny'" in capsys.readouterr().err


REGRESSION: dict[str, Any] = {
    "name": "numbers",
    "data": {"name": "diabetes", "train_size": 60, "splits": {"search": 100, "selection": 50, "test": 50}},
    "model": {"name": "mlp", "arguments": {"hidden": [8, 6], "activation": "tanh"}},
    "training": {"epochs": 3, "batch_size": 30, "optimizer": {"lr": 0.02}},
    "regularizers": [
        {"name": "none"},
        {"name": "basis_collapse", "strength": 0.1, "form": "log_det"},
        {"name": "weight_decay", "strength": {"log_uniform": [1e-4, 1e-2]}},
    ],
    "search": {"sampler": "random", "arms": "balanced", "trials": 3},
    "measures": {"names": ["perplexity", "basis_collapse"]},
}


def test_a_regression(home: Path, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the file to the page: what is recorded is R² of the recorded configuration, and what is read says so."""
    outcome = operations.run(write(tmp_path, REGRESSION))
    assert Counter(t.state for t in outcome.trials) == {TrialState.COMPLETE: 3}
    best = outcome.ranking[0]
    assert best.values[0] == max(t.values[0] for t in outcome.trials)
    model, _ = fit(best.config)
    search = data.load(best.config.data).search
    with torch.no_grad():
        predicted = model(search.inputs)[:, 0]
    final = (best.headlines["final/validation/accuracy"], best.headlines["final/validation/loss"])
    expected = (r2_score(search.labels, predicted), mean_squared_error(search.labels, predicted))
    assert final == pytest.approx(expected, rel=1e-5)
    assert f"validation R² at its epoch of lowest validation loss {best.values[0]:.4g} (higher" in outcome.summary
    assert "loss (mean squared error)" in outcome.report.read_text(encoding="utf-8")
    assert f"best/validation/R² = {best.values[0]:.4g} on the search split" in outcome.best.read_text(encoding="utf-8")
    _, children = mlflow_runs(outcome.folder, "numbers")
    assert {c.data.tags["sparsestudy.task"] for c in children} == {"regression"}
    assert all("R² is what" in c.data.tags["mlflow.note.content"] for c in children)
    assert children[best.number].data.metrics["best/validation/accuracy"] == best.values[0]
    for command in (["best", "numbers"], ["trials", "numbers"], ["show", "numbers", "0"]):
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert "validation/R²" in shown or "validation R²" in shown
        assert "accuracy" not in shown


MODELS = '''
import os

from torch import nn


class Fragile(nn.Module):
    """Fails in its ninth training step, in the way it was told to."""

    def __init__(self, classes, how):
        super().__init__()
        self.how, self.steps = how, 0
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.output = nn.Linear(16, classes)

    def forward(self, inputs):
        self.steps += self.training
        if self.steps > 8 and self.how == "raise":
            raise RuntimeError("the [sky] is falling")
        if self.steps > 8 and self.how == "exit":
            os._exit(3)
        return self.output(self.features(inputs))


def fragile(classes, how="well"):
    return Fragile(classes, how)
'''


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's own model, on the path of this process and of the workers."""
    (tmp_path / "fragile_models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


FRAGILE: dict[str, Any] = {
    "name": "fragile",
    "data": TINY["data"],
    "model": {"name": "fragile_models:fragile"},
    "training": {"epochs": 4, "batch_size": 20},
    "regularizers": [{"name": "none"}],
    "budget": {"retries": 1},
    "search": {
        "sampler": "grid",
        "parameters": {
            "model.arguments.how": {"choice": ["well", "raise", "exit"]},
            "training.optimizer.lr": {"choice": [0.05, 1e30]},
        },
    },
}


def run_in_process(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(cwd), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "SPARSESTUDY_HOME": str(home), "PYTHONPATH": path}
    command = [sys.executable, "-m", "sparsestudy", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_failing_trials_do_not_take_the_study_down(fragile: Path, home: Path) -> None:
    """A grid of six: two train well or diverge, two raise, two kill their worker process."""
    done = run_in_process("run", str(write(fragile, FRAGILE)), cwd=fragile, home=home)
    assert done.returncode == 0, done.stderr
    with operations.open_study("fragile") as study:
        trials = study.trials()
    points = [
        (t.config.parameters["model.arguments.how"], t.config.parameters["training.optimizer.lr"]) for t in trials
    ]
    assert len(set(points)) == len(points) == 6
    by_point = dict(zip(points, trials, strict=True))
    assert by_point["well", 0.05].state is TrialState.COMPLETE
    diverged = by_point["well", 1e30]
    assert diverged.failure is not None
    assert diverged.failure.kind == "DivergedError"
    assert "in epoch 0" in diverged.failure.message
    raised = by_point["raise", 0.05]
    assert raised.failure is not None
    assert (raised.failure.kind, raised.failure.message) == ("RuntimeError", "the [sky] is falling")
    assert 'raise RuntimeError("the [sky] is falling")' in raised.failure.traceback
    assert raised.epochs == 2  # three steps an epoch; the ninth step is the last that works
    killed = by_point["exit", 0.05]
    assert killed.failure is not None
    assert killed.failure.kind == "WorkerDied"
    assert "best.yaml" in done.stdout
    _, children = mlflow_runs(home / "fragile", "fragile")
    assert Counter(c.info.status for c in children) == {"FINISHED": 1, "FAILED": 5}


def test_a_study_whose_every_trial_fails_says_why(
    fragile: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {**FRAGILE, "search": {"sampler": "random", "trials": 2}}
    spec["model"] = {"name": "fragile_models:missing"}
    assert main(["run", str(write(fragile, spec))]) == 2
    error = capsys.readouterr().err
    assert "module 'fragile_models' has no function 'missing'" in error
    assert operations.studies() == []
    diverging = {**TINY, "name": "diverging", "regularizers": [{"name": "none"}], "search": {"trials": 2}}
    diverging["training"] = {"epochs": 2, "optimizer": {"lr": 1e30}}
    assert main(["run", str(write(fragile, diverging))]) == 1
    error = capsys.readouterr().err
    assert "every one of the 2 trials of 'diverging' failed; the first one, trial 0:" in error
    assert "DivergedError: train loss became" in error
    assert "Traceback" in error


def test_halving_prunes_at_rungs(home: Path, cluster: None, tmp_path: Path) -> None:
    spec = {**TINY, "name": "halving", "regularizers": [{"name": "none"}]}
    spec["training"] = {"epochs": 9, "batch_size": 20}
    spec["search"] = {
        "sampler": "random",
        "trials": 9,
        "parameters": {"training.optimizer.lr": {"log_uniform": [1e-6, 0.1]}},
    }
    spec["stopping"] = {"rule": "asha", "grace_epochs": 1, "reduction_factor": 3}
    spec["measures"] = {"snapshots": "none"}
    outcome = operations.run(write(tmp_path, spec))
    states = Counter(t.state for t in outcome.trials)
    assert states[TrialState.PRUNED] >= 3
    assert states[TrialState.COMPLETE] >= 1
    assert sum(states.values()) == states[TrialState.PRUNED] + states[TrialState.COMPLETE] == 9
    for trial in outcome.trials:
        assert trial.epochs in ((1, 3) if trial.state is TrialState.PRUNED else (9,))
    assert outcome.ranking[0].state is TrialState.COMPLETE
    _, children = mlflow_runs(outcome.folder, "halving")
    assert not (outcome.folder / "snapshots").exists()
    statuses = [c.info.status for c in children]
    assert statuses == ["KILLED" if t.state is TrialState.PRUNED else "FINISHED" for t in outcome.trials]


def test_two_objectives_give_a_front(home: Path, cluster: None, tmp_path: Path) -> None:
    spec = {**TINY, "name": "two", "measures": {"snapshots": "all"}}
    spec["search"] = {
        "sampler": "tpe",
        "trials": 6,
        "objectives": [
            {"metric": "best/validation/accuracy", "direction": "maximize"},
            {"metric": "final/gap/loss", "direction": "minimize"},
        ],
    }
    outcome = operations.run(write(tmp_path, spec))
    assert all(t.state is TrialState.COMPLETE and len(t.values) == 2 for t in outcome.trials)
    for trial in outcome.trials:
        expected = (trial.headlines["best/validation/accuracy"], trial.headlines["final/gap/loss"])
        assert trial.values == expected
        assert all(math.isfinite(value) for value in trial.values)
    client = mlflow_client(outcome.folder)
    for child in mlflow_runs(outcome.folder, "two")[1]:
        assert {f.path for f in client.list_artifacts(child.info.run_id)} >= PICTURES


def start(path: Path, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "SPARSESTUDY_HOME": str(home)}
    command = [sys.executable, "-m", "sparsestudy", "run", str(path)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_trials(home: Path, study: str, finished: int, limit: float = 120) -> None:
    """Until so many trials are over and another is under way."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if study in operations.studies():
            with operations.open_study(study) as opened:
                states = opened.states()
            done = sum(n for state, n in states.items() if state.finished)
            if done >= finished and states[TrialState.RUNNING]:
                return
        time.sleep(0.2)
    pytest.fail(f"{study} did not finish {finished} trials in {limit} s")


def overlapping(name: str) -> int:
    """How many trials trained at the same time as another."""
    with operations.open_study(name) as study:
        epochs = [study.trajectory(trial.number) for trial in study.trials()]
    spans = [(e[0].timestamp - 1000 * e[0].seconds, e[-1].timestamp) for e in epochs]
    return sum(any(a < d and c < b for c, d in spans if (c, d) != (a, b)) for a, b in spans)


def test_interrupted_killed_and_resumed_a_study_is_the_same(home: Path, tmp_path: Path, cluster: None) -> None:
    """Ctrl-C, a second driver, kill -9, then the rest; against the same study left alone, number for number."""
    spec = {**TINY, "name": "restless", "training": {"epochs": 60, "batch_size": 20}, "checkpoints": {"epochs": 7}}
    path = write(tmp_path, spec)

    first = start(path, home)
    wait_for_trials(home, "restless", 2)
    with pytest.raises(ConflictError, match=f"'restless' is already being run by process {first.pid}"):
        operations.run(path)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "nothing is lost. To go on: sparsestudy run" in out
    with operations.open_study("restless") as study:
        assert study.states()[TrialState.RUNNING] == 0
        stopped_at = sum(t.state.finished for t in study.trials())
    assert 2 <= stopped_at < 12

    second = start(path, home)
    wait_for_trials(home, "restless", stopped_at + 2)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate(timeout=60)

    resumed = operations.run(path)
    assert Counter(t.state for t in resumed.trials) == {TrialState.COMPLETE: 12}
    assert all(t.epochs == 60 for t in resumed.trials)
    assert max(t.attempts for t in resumed.trials) >= 2
    calm = operations.run(path, new=True)
    assert calm.study == "restless-2"
    for a, b in zip(resumed.trials, calm.trials, strict=True):
        assert a.config.model_copy(update={"study": ""}) == b.config.model_copy(update={"study": ""})
        assert (a.values, a.headlines) == (b.values, b.headlines)
    assert overlapping("restless-2") >= 6  # both workers trained, although trials are shorter than a worker's start
    client = mlflow_client(home / "restless")
    _, children = mlflow_runs(home / "restless", "restless")
    assert [int(c.data.tags["sparsestudy.trial"]) for c in children] == list(range(12))
    snapshots = [
        {p.name: p.read_bytes() for p in (home / n / "snapshots").iterdir()} for n in ("restless", "restless-2")
    ]
    assert snapshots[0] == snapshots[1]
    assert set(snapshots[0]) == {f"{n}.npz" for n in range(12)}
    for child in children:
        assert child.info.status == "FINISHED"
        history = client.get_metric_history(child.info.run_id, "validation/loss")
        assert [m.step for m in history] == list(range(60))
