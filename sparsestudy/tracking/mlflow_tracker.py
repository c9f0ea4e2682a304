"""MLflow as a window on the ledger: one experiment per study, one parent run, one child run per trial for ever.

A thread of the driver reads what the ledger has not delivered yet and ships it in batches. Everything it does may be
repeated; see `sparsestudy.tracking.mlflow_store`. While MLflow is away the ledger keeps growing and nobody waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sparsestudy.tracking.ledger import Delivery, Ledger, StudyRecord
from sparsestudy.tracking.mlflow_client import away, default_uri, ours, reason
from sparsestudy.tracking.mlflow_store import Store
from sparsestudy.trial import Measurement, Trial, trial_label

logger = logging.getLogger(__name__)
MINIMUM_EPOCHS = 25
"""Epochs of a running trial that are worth a request; the rest of a trial travels with its end."""
LONGEST_WAIT = 10.0
"""Seconds between two attempts to reach an MLflow that is away, at most."""

Artifacts = Callable[[Trial, list[Measurement]], Mapping[str, bytes]]
"""What to attach to a finished trial: file name -> content."""


class Tracker:
    """Ships a study from the ledger to MLflow until closed.

    Args:
        ledger: Where to read; a ledger object of its own, used from the tracker's thread only.
        record: The study.
        folder: The study's folder; artifacts of the embedded store go below it.
        artifacts: Makes the files of a finished trial.
        period: Seconds between passes.

    Attributes:
        failures: Passes that failed; the first one of an outage was logged, all were tried again.
        store: The study in MLflow.
    """

    def __init__(
        self, ledger: Ledger, record: StudyRecord, folder: Path, artifacts: Artifacts, period: float = 2.0
    ) -> None:
        self.uri = default_uri(folder)
        self.failures = 0
        self.store = Store(self.uri, record)
        self._ledger, self._record, self._artifacts, self._period = ledger, record, artifacts, period
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._running: set[str] = set()
        self._told = False
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def close(self, patience: float = 15.0) -> bool:
        """Ship what is left and stop.

        Args:
            patience: Seconds in which an MLflow that is away has to take something, and one that is only slow in
                four times as many; as long as it does, all is shipped.

        Returns:
            Whether everything was delivered.
        """
        self._moved = time.monotonic()
        self._closing.set()
        while self._thread.is_alive() and time.monotonic() - self._moved < (patience if self._told else 4 * patience):
            self._thread.join(0.05)
        self._given_up.set()  # a request may still be hanging; it is the last one
        delivered = not self._thread.is_alive() and not self._ledger.undelivered(self._record.id)
        self._ledger.close()  # what is said after this opens it again, and closes it
        return delivered

    def finish(self, artifacts: Mapping[str, bytes], *, metrics: Mapping[str, float], complete: bool) -> None:
        """Attach the study's outcome to the parent run, and say whether the study is complete or will go on.

        To be called after `close`.
        """
        trials = self._ledger.trials(self._record.id)
        waiting = [trial.run_id for trial in trials if trial.run_id and not trial.state.finished]
        with ours():
            self._open()
            self.store.finish(artifacts, metrics, outcome_time(self._record, trials), None if complete else waiting)
        self._ledger.close()

    def attach_to_study(self, paths: Iterable[Path]) -> None:
        """Attach files to the study's parent run, which stays as it is otherwise; nothing if it has none yet."""
        if self._record.run_id is not None:
            with ours():
                self.store.attach(self._record.run_id, {path.name: path.read_bytes() for path in paths})

    def attach(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Attach files to a run, in place of those of the same names. To be called after `close`."""
        with ours():
            self.store.attach(run_id, files)

    def register(self, number: int, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> int:
        """Make the network of a trial the champion among the versions of a registered model.

        To be called after `close`. The files go to the trial's run, below ``model``; the version points there.

        Args:
            number: The trial.
            name: Of the registered model; made if there is none.
            files: By name.
            tags: Of the version.

        Returns:
            The number of the version, which bears the alias ``champion`` from now on.
        """
        with ours():
            self._open()
            run_id = str(self._ledger.trial(self._record.id, number).run_id)
            self._ledger.close()
            return self.store.register(run_id, name, files, tags)

    # The thread

    def _run(self) -> None:
        delay = self._period
        with ours():
            while not self._given_up.is_set():
                last = self._closing.is_set()
                try:
                    # The last pass takes everything, also of trials that were interrupted.
                    self._deliver(1 if last else MINIMUM_EPOCHS)
                    delay = self._period
                    if last:
                        return
                except Exception as error:
                    # Whatever MLflow does, training goes on; the ledger keeps what was not delivered.
                    self._failed(error)
                    delay = min(LONGEST_WAIT, 2 * delay)
                    if last and not away(error):
                        return
                if last:
                    self._given_up.wait(1.0)
                else:
                    self._closing.wait(delay)

    def _deliver(self, minimum: int) -> None:
        self._open()
        while not self._given_up.is_set() and self._pass(minimum):
            continue
        if self._told:
            logger.info("MLflow at %s takes deliveries again", self.uri)
        self._told = False

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self._told:
            return
        self._told = True
        self.store.parent = ""  # what comes back may be another store
        what = "is away" if away(error) else "refused a delivery"
        logger.warning("MLflow at %s %s, the study goes on without it: %s", self.uri, what, reason(error))

    def _pass(self, minimum: int) -> bool:
        """Ship one lot; returns whether there may be more."""
        self._reopen()
        lot = self._ledger.undelivered(self._record.id, minimum=minimum)
        refused: list[Exception] = []
        for delivery in lot:
            if self._given_up.is_set():
                return False
            try:
                self._ship(delivery)
                self._ledger.mark_delivered(self._record.id, delivery)
                self._moved = time.monotonic()
            except Exception as error:
                if away(error):
                    raise
                refused.append(error)  # the other trials need not wait for this one
        if refused:
            raise refused[0]
        return bool(lot)

    def _reopen(self) -> None:
        """A trial that is being trained again may have a run that was closed, or waited."""
        for run_id in self._ledger.running_runs(self._record.id) - self._running:
            self.store.client.update_run(run_id, status="RUNNING")
            self._running.add(run_id)

    def _open(self) -> None:
        if self.store.parent:
            return
        fresh = self.store.open(environment=True)
        if not fresh:
            self.store.client.update_run(self.store.parent, status="RUNNING")
        if self._ledger.study(self._record.name).run_id not in (None, self.store.parent):
            # Another store than the one that the ledger's marks are about, or its database was deleted.
            self._ledger.forget_deliveries(self._record.id)
        self._ledger.set_run(self._record.id, self.store.parent)
        self._moved = time.monotonic()

    def _ship(self, delivery: Delivery) -> None:
        trial, run_id = delivery.trial, delivery.trial.run_id
        if run_id is None:
            run_id = self.store.run_of(trial, trial_label(trial.config))
            self._ledger.set_run(self._record.id, run_id, trial.number)
            self._running.add(run_id)
        self.store.write(run_id, trial, delivery.measurements, closing=delivery.closing)
        if delivery.closing:
            trajectory = self._ledger.trajectory(self._record.id, trial.number)
            self.store.attach(run_id, self._artifacts(trial, trajectory))
            self.store.end(run_id, trial)


def outcome_time(record: StudyRecord, trials: Iterable[Trial]) -> int:
    """When the last trial ended, in milliseconds since 1970: the timestamp of what is said of the whole study."""
    return int(1000 * max((trial.finished or 0 for trial in trials), default=0)) or int(1000 * record.created)
