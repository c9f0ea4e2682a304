"""Trials that a method ends before their last epoch, in whole studies: COMPLETE, and shown as what they are."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from sparsestudy import cli, operations
from sparsestudy.operations import Outcome
from sparsestudy.scheduling.progress import Progress
from sparsestudy.trial import Trial, TrialState, headlines
from tests.test_studies import TINY, mlflow_client, mlflow_runs, write

pytestmark = pytest.mark.study

EPOCHS = 40
PATIENT: dict[str, Any] = {
    **TINY,
    "name": "patient",
    "training": {"epochs": EPOCHS, "batch_size": 20, "optimizer": {"lr": 0.05}},
    "regularizers": [{"name": "none"}, {"name": "early_stopping", "patience": {"int": [2, 4]}}],
    "search": {"sampler": "random", "arms": "balanced", "trials": 6},
    "measures": {"every": 10},
}


@pytest.fixture(scope="module")
def patient(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[str]]:
    """A study with and without early stopping, and what its progress showed."""
    folder, shown = tmp_path_factory.mktemp("patient"), []

    def watch(progress: Progress) -> None:
        assert progress.seconds_left is None or progress.seconds_left >= 0
        text = io.StringIO()
        Console(file=text, width=120).print(cli._panel(progress))
        shown.append(text.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSESTUDY_HOME", str(folder / "results"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return operations.run(write(folder, PATIENT), watch=watch), shown


@pytest.fixture
def patient_home(patient: tuple[Outcome, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSESTUDY_HOME", str(patient[0].folder.parent))


def stopped(outcome: Outcome) -> list[Trial]:
    return [trial for trial in outcome.trials if trial.config.arm == "early_stopping"]


def test_trials_that_stopped_early_are_complete_and_counted_as_they_are(
    patient: tuple[Outcome, list[str]], patient_home: None
) -> None:
    outcome, shown = patient
    assert [t.state for t in outcome.trials] == [TrialState.COMPLETE] * 6
    assert [t.epochs for t in outcome.trials if t.config.arm == "none"] == [EPOCHS] * 3
    with operations.open_study("patient") as study:
        for trial in stopped(outcome):
            trajectory = study.trajectory(trial.number)
            losses = [m.validation_loss for m in trajectory]
            patience = trial.config.parameters["early_stopping/patience"]
            assert trial.epochs == len(trajectory) == losses.index(min(losses)) + 1 + patience < EPOCHS
            assert trial.headlines == headlines(trajectory, "perplexity")
            assert trial.headlines["final/epoch"] == trial.epochs - 1
            assert trial.headlines["final/validation/loss"] == losses[-1]
            assert trial.headlines["best/validation/loss"] == min(losses)
            assert [m.epoch for m in trajectory if m.statistics] == sorted(
                {*range(0, trial.epochs, 10), trial.epochs - 1}
            )
    assert "6/6 trials (6 complete)" in shown[-1]
    assert "running" not in shown[-1]


def test_mlflow_has_the_epochs_there_were(patient: tuple[Outcome, list[str]], tmp_path: Path) -> None:
    outcome, _ = patient
    client = mlflow_client(outcome.folder)
    _, children = mlflow_runs(outcome.folder, "patient")
    for trial, run in zip(outcome.trials, children, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.tags["sparsestudy.epochs"] == str(trial.epochs)
        history = client.get_metric_history(run.info.run_id, "validation/loss")
        assert [m.step for m in history] == list(range(trial.epochs))
        sparsity = client.get_metric_history(run.info.run_id, "sparsity/perplexity/conv1")
        assert [m.step for m in sparsity] == sorted({*range(0, trial.epochs, 10), trial.epochs - 1})
        assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"trajectory.parquet", "sparsity.png"}
        table = pd.read_parquet(client.download_artifacts(run.info.run_id, "trajectory.parquet", str(tmp_path)))
        assert table["epoch"].max() == trial.epochs - 1


def test_the_page_draws_the_epochs_there_were(patient: tuple[Outcome, list[str]]) -> None:
    outcome, _ = patient
    page = outcome.report.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*id="figures"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    best = next(t for t in outcome.ranking if t.config.arm == "early_stopping")
    whole = next(t for t in outcome.ranking if t.config.arm == "none")
    last = [max(trace["x"]) for figure in json.loads(found[1]).values() for trace in figure["data"] if epochs_of(trace)]
    assert set(last) == {best.epochs - 1, whole.epochs - 1}
    frame = pd.read_parquet(outcome.folder / "trials.parquet")
    assert frame["epochs"].tolist() == [trial.epochs for trial in outcome.trials]


def epochs_of(trace: dict[str, Any]) -> bool:
    """Whether its x are epochs."""
    return "epoch" in trace.get("hovertemplate", "")


def test_best_yaml_of_a_trial_that_stopped_early_gives_it_again_under_halving(
    home: Path, cluster: None, tmp_path: Path
) -> None:
    """Successive halving prunes some at its rungs; who runs out of patience before a rung is COMPLETE."""
    spec = {**PATIENT, "name": "both", "regularizers": PATIENT["regularizers"][1:], "measures": {"every": 1}}
    learning_rates = {"training.optimizer.lr": {"log_uniform": [1e-5, 0.1]}}
    spec["search"] = {"sampler": "random", "trials": 8, "parameters": learning_rates}
    spec["stopping"] = {"rule": "asha", "grace_epochs": 3, "reduction_factor": 3}
    outcome = operations.run(write(tmp_path, spec))
    complete = [trial for trial in outcome.trials if trial.state is TrialState.COMPLETE]
    pruned = [trial for trial in outcome.trials if trial.state is TrialState.PRUNED]
    assert len(complete) + len(pruned) == 8
    assert all(trial.epochs in (3, 9, 27) for trial in pruned)
    assert pruned
    best = outcome.ranking[0]
    assert best.state is TrialState.COMPLETE
    assert best.epochs < EPOCHS
    (again,) = operations.run(outcome.best).trials
    assert (again.state, again.epochs, again.values) == (best.state, best.epochs, best.values)
    assert again.headlines == best.headlines
