"""MLflow's server is killed in the middle of a study, and comes back in a while or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sparsestudy import operations, syncing
from sparsestudy.scheduling.progress import Progress
from sparsestudy.tracking.mlflow_runs import Run, read_runs
from tests.servers import free_port, kill, mlflow_process
from tests.test_studies import TINY, write

pytestmark = [pytest.mark.faults, pytest.mark.study, pytest.mark.timeout(600)]
TRIALS = 8
AWAY = 10.0
"""Seconds for which the server is away."""


class Outage:
    """A server that is killed when the first trial has finished, and perhaps started again."""

    def __init__(self, folder: Path, *, back: bool) -> None:
        self.port = free_port()
        self.gaps: list[tuple[float, bool]] = []
        self._folder, self._back, self._killed, self._at = folder, back, False, 0.0
        self._stack = ExitStack()
        self._server = self._stack.enter_context(mlflow_process(folder, self.port))
        self._thread = threading.Thread(target=self._strike)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def watch(self, progress: Progress) -> None:
        """Called by the driver's loop: a long time between two calls is a driver that waited for something."""
        now = time.monotonic()
        if self._at and progress.phase == "running":
            self.gaps.append((now - self._at, self._killed))
        self._at = now
        if progress.finished and not self._killed:
            self._killed = True
            self._thread.start()

    def _strike(self) -> None:
        kill(self._server)
        if self._back:
            time.sleep(AWAY)
            self.start_again()

    def start_again(self) -> None:
        self._stack.enter_context(mlflow_process(self._folder, self.port))

    def close(self) -> None:
        self._thread.join()
        self._stack.close()


@pytest.fixture
def outages(tmp_path: Path, cluster: None) -> Iterator[Any]:
    begun: list[Outage] = []

    def begin(*, back: bool) -> Outage:
        begun.append(Outage(tmp_path, back=back))
        return begun[-1]

    yield begin
    for outage in begun:
        outage.close()


def check(uri: str, epochs: int) -> None:
    """One run per trial, every epoch once, all ended."""
    runs = read_runs(uri, "tiny", lambda names: names)
    trials = {run.tags["sparsestudy.trial"]: run for run in runs if run.tags["sparsestudy.kind"] == "trial"}
    assert (len(runs), sorted(map(int, trials))) == (TRIALS + 1, list(range(TRIALS)))
    for run in trials.values():
        assert (run.status, run.params["arm"]) == ("FINISHED", run.tags["sparsestudy.arm"])
        assert all_steps(uri, run, "validation/loss") == list(range(epochs))
        assert all_steps(uri, run, "sparsity/perplexity/conv1") == list(range(epochs))
    (parent,) = (run for run in runs if run.tags["sparsestudy.kind"] == "study")
    assert parent.status == "FINISHED"


def all_steps(uri: str, run: Run, metric: str) -> list[int]:
    from mlflow import MlflowClient

    return [point.step for point in MlflowClient(uri).get_metric_history(run.id, metric)]


def run_during(outage: Outage, folder: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> operations.Outcome:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outage.uri)
    spec = {**TINY, "regularizers": TINY["regularizers"][:2], "search": {**TINY["search"], "trials": TRIALS}}
    spec["training"] = {"epochs": epochs, "batch_size": 20}
    outcome = operations.run(write(folder, spec), watch=outage.watch)
    before, after = (max(gap for gap, killed in outage.gaps if killed is when) for when in (False, True))
    assert after < before + 2.0  # by itself, MLflow's client waits for minutes
    assert len(outcome.ranking) == TRIALS
    return outcome


def test_a_server_that_comes_back_gets_everything_once(
    outages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outage = outages(back=True)
    outcome = run_during(outage, tmp_path, monkeypatch, 200)
    assert outcome.delivered, "the study ended before the server was back; it has to take longer"
    check(outage.uri, 200)
    assert len([line for line in caplog.messages if line.startswith("MLflow at")]) == 1


def test_a_server_that_stays_away_gets_everything_from_sync(
    outages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outage = outages(back=False)
    outcome = run_during(outage, tmp_path, monkeypatch, 30)
    assert not outcome.delivered
    (line,) = (line for line in caplog.messages if "MLflow" in line)
    assert line.startswith(f"MLflow at {outage.uri} is away, the study goes on without it: ")
    assert len(line) < 140
    outage.start_again()
    assert syncing.sync("tiny").trials == TRIALS
    check(outage.uri, 30)
