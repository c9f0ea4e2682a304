"""What must be true of a study whatever has happened to it, checked on what is left when it is done.

The ledger is read as SQL and through `Ledger`, MLflow through its client, the tables through pandas. What is compared
with an undisturbed run is compared exactly; times are all that may differ.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from sparsestudy.analysis import table
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.mlflow_names import epoch_metrics
from sparsestudy.trial import Measurement, Trial, TrialState
from tests.faults import processes
from tests.faults.harness import EPOCHS, NAME, STEPS, TRIALS, Run

TIMES = ["seconds", "attempts"]
"""Columns of the final table that say how long and how often, not what."""
GRACE = 90.0
"""Seconds that Ray's agents may take to notice the death of their raylet; it gives them 61."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a fault has cost.

    Attributes:
        lost: Planned trials without a whole run in MLflow.
        doubled: Runs of trials in MLflow beyond one each.
        repeated: Epochs that were trained more than once, of the trial that suffered most; parts of epochs count.
        recovery: Seconds from each strike until what it stopped was trained on; empty if nothing was being trained.
    """

    lost: int
    doubled: int
    repeated: float
    recovery: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """All that a study leaves but times, for comparison."""

    table: pd.DataFrame
    trials: list[dict[str, Any]]
    trajectories: list[list[dict[str, Any]]]
    files: dict[str, bytes]


def outcome(run: Run) -> Outcome:
    """What the run has left."""
    with run.ledger() as ledger:
        trials, trajectories = _recorded(ledger)
    kept = [run.study / "best.yaml", *sorted((run.study / "snapshots").glob("*"))]
    return Outcome(
        table=pd.read_parquet(run.study / "trials.parquet").drop(columns=TIMES),
        trials=[
            {"config": t.config, "state": t.state, "values": t.values, "headlines": t.headlines, "epochs": t.epochs}
            for t in trials
        ],
        trajectories=[[_timeless(m) for m in of] for of in trajectories],
        files={path.name: path.read_bytes() for path in kept},
    )


def check(run: Run, calm: Outcome) -> Account:
    """Assert every invariant of a study that is done; returns what the fault has cost."""
    account = accounted(run)
    assert (account.lost, account.doubled) == (0, 0)
    check_ledger(run)
    check_tables(run)
    check_same(outcome(run), calm)
    check_nothing_left(run)
    assert account.repeated <= run.allowed, f"{account.repeated:.1f} epochs repeated, allowed: {run.allowed}"
    return account


def check_ledger(run: Run) -> None:
    """Exactly the planned trials, complete; no attempt open, nobody's lease, nothing undelivered."""
    with run.ledger() as ledger:
        trials, trajectories = _recorded(ledger)
        engine = create_engine(ledger.url)
    assert [trial.number for trial in trials] == [*range(TRIALS)]
    assert Counter(trial.state for trial in trials) == {TrialState.COMPLETE: TRIALS}
    taken = Counter(step.trial for step in run.steps())
    assert len(taken) == TRIALS, f"{len(taken)} configurations were trained"
    assert min(taken.values()) >= STEPS * EPOCHS
    for trajectory in trajectories:
        assert [m.epoch for m in trajectory] == [*range(EPOCHS)]
    with engine.connect() as connection:
        owner = connection.execute(text("SELECT owner_host, owner_pid, lease_expires FROM studies")).all()
        opened = connection.execute(text("SELECT count(*) FROM attempts WHERE ended IS NULL")).scalar()
        waiting = connection.execute(text("SELECT count(*) FROM measurements WHERE NOT delivered")).scalar()
        versions = connection.execute(text("SELECT count(*) FROM schema_version")).scalar()
    engine.dispose()
    assert [tuple(row) for row in owner] == [(None, None, None)], "a lease is left"
    assert (opened, waiting, versions) == (0, 0, 1)


def check_tables(run: Run) -> None:
    """Ledger, MLflow and Parquet say the same, number for number."""
    with run.ledger() as ledger:
        trials, trajectories = _recorded(ledger)
    frame = pd.read_parquet(run.study / "trials.parquet").set_index("number")
    client, runs = MlflowClient(run.uri), {int(r.data.tags["sparsestudy.trial"]): r for r in runs_of(run, "trial")}
    (parent,) = runs_of(run, "study")
    assert parent.info.status == "FINISHED"
    attached = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert attached == {"study.yaml", "environment.txt", "report.html", "best.yaml"}
    for trial, trajectory in zip(trials, trajectories, strict=True):
        found = runs[trial.number]
        assert (found.info.run_id, found.info.status) == (trial.run_id, "FINISHED")
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for name, value in trial.headlines.items():
            assert frame.loc[trial.number, name] == value, name
        expected: dict[str, list[tuple[int, int, float]]] = {}
        for m in trajectory:
            for name, value in epoch_metrics(m, trial.config.measures.main).items():
                expected.setdefault(name, []).append((m.epoch, m.timestamp, value))
        for name, points in expected.items():
            history = client.get_metric_history(found.info.run_id, name)
            assert sorted((p.step, p.timestamp, p.value) for p in history) == points, (trial.number, name)
        _check_artifact(client, found.info.run_id, trajectory, run.folder)


def _check_artifact(client: MlflowClient, run_id: str, trajectory: list[Measurement], folder: Path) -> None:
    local = client.download_artifacts(run_id, "trajectory.parquet", str(folder))
    buffer = io.BytesIO()
    table.trajectory_table(trajectory).to_parquet(buffer, engine="pyarrow", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(local), pd.read_parquet(buffer), check_exact=True)


def check_same(found: Outcome, calm: Outcome) -> None:
    """The undisturbed run's results, all but times."""
    pd.testing.assert_frame_equal(found.table, calm.table, check_exact=True)
    assert found.trials == calm.trials
    assert found.trajectories == calm.trajectories
    assert found.files.keys() == calm.files.keys()
    assert [name for name in found.files if found.files[name] != calm.files[name]] == []


def check_nothing_left(run: Run) -> None:
    """No checkpoint, no draft of a file, no driver and no worker; Ray's agents may take their time."""
    assert not (run.study / "checkpoints" / NAME).exists()
    assert [*run.study.rglob("*.part")] == []
    workers = {step.pid for step in run.steps()}
    assert processes.until(lambda: not workers & processes.descendants().keys(), 20), "a worker is left"


def check_no_orphans(known: set[int]) -> None:
    """Of all runs so far no process is left, when Ray has had its time."""
    gone = processes.until(lambda: not processes.descendants(known), GRACE, pause=1)
    assert gone, f"left: {processes.descendants(known)}"


def accounted(run: Run) -> Account:
    """What is lost, doubled and repeated, and how long recovery took, from MLflow and the steps alone."""
    return account_of(run, {r.info.run_id: r.data.tags["sparsestudy.trial"] for r in runs_of(run, "trial")})


def account_of(run: Run, trials: Mapping[str, str]) -> Account:
    """The same of anybody's runs in MLflow: identifier of a run -> the trial that it is of."""
    client, whole = MlflowClient(run.uri), set()
    for run_id, trial in trials.items():
        steps = sorted(p.step for p in client.get_metric_history(run_id, "validation/loss"))
        if steps in ([*range(EPOCHS)], [*range(1, EPOCHS + 1)]):  # counted from 0 or from 1
            whole.add(trial)
    return Account(
        lost=TRIALS - len(whole),
        doubled=len(trials) - len({*trials.values()}),
        repeated=repeated(run),
        recovery=tuple(recovery(run)),
    )


def repeated(run: Run) -> float:
    """Epochs trained beyond the planned ones, of the trial that has most."""
    taken = Counter(step.trial for step in run.steps())
    return max(taken.values()) / STEPS - EPOCHS


def recovery(run: Run) -> list[float]:
    """Seconds from each strike until every trial that it stopped was trained on, or, if none was, any trial."""
    steps, found = run.steps(), []
    for strike in run.strikes:
        before = {step.trial: step.pid for step in steps if step.at <= strike.at}
        later = [step for step in steps if step.at > strike.at and step.pid not in strike.victims]
        stopped = {trial for trial, pid in before.items() if pid in strike.victims}
        first = {step.trial: step.at for step in reversed(later)}
        resumed = [first[trial] for trial in stopped & first.keys()] or sorted(first.values())[:1]
        found += [max(resumed) - strike.at] if resumed else []
    return found


def runs_of(run: Run, kind: str) -> list[Any]:
    """The runs in MLflow that are of a ``study`` or of a ``trial``."""
    client = MlflowClient(run.uri)
    experiment = client.get_experiment_by_name(NAME)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return [r for r in found if r.data.tags["sparsestudy.kind"] == kind]


def _recorded(ledger: Ledger) -> tuple[list[Trial], list[list[Measurement]]]:
    study = ledger.study(NAME)
    trials = ledger.trials(study.id)
    return trials, [ledger.trajectory(study.id, trial.number) for trial in trials]


def _timeless(measurement: Measurement) -> dict[str, Any]:
    plain = {**measurement.to_dict(), "seconds": 0, "timestamp": 0}
    return dict(json.loads(json.dumps(plain)))
