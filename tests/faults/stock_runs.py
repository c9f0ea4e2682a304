"""The stock stack under the same faults; nothing is asserted of it, its losses are counted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from mlflow import MlflowClient

from tests.faults import injuries, invariants
from tests.faults.harness import Run
from tests.faults.stock_stack import EXPERIMENT

FAULTS = ("driver killed", "worker killed", "MLflow server killed")


def injured(name: str, seed: int, folder: Path, configurations: str) -> tuple[invariants.Account, str]:
    """One run with one fault, at the moments that ours was harmed at.

    Args:
        name: Of the fault.
        seed: Of its moments.
        folder: Of the run.
        configurations: The trials, as JSON.

    Returns:
        What it has cost, and what it said in the end if it never came to an end.
    """
    folder.mkdir(parents=True)
    (folder / "configurations.json").write_text(configurations, encoding="utf-8")
    run = Run(folder=folder, command=("-m", "tests.faults.stock_stack"))
    run.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    given_up = ""
    with run.around:
        try:
            injuries.ALL[name](run, Random(f"{name} {seed}"))
        except AssertionError as error:
            given_up = str(error)
            with suppress(IndexError):
                given_up = str(error).strip().splitlines()[-1]
        return invariants.account_of(run, _trials(run)), given_up


def _trials(run: Run) -> Mapping[str, str]:
    client = MlflowClient(run.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return {}
    return {
        r.info.run_id: r.data.params.get("number", "none")
        for r in client.search_runs([experiment.experiment_id], max_results=1000)
    }
