"""MLflow as a window on the ledger: one experiment per study, one parent run, one child run per trial for ever.

A thread of the driver reads what the ledger has not delivered yet and ships it in batches. Everything it does may be
repeated: runs are found again by a unique tag, metric points carry the timestamp they were measured at (MLflow keeps
identical points once), parameters never change. While MLflow is away the ledger keeps growing and nobody waits.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsestudy.specfile import dump_yaml
from sparsestudy.tracking.environment import environment_tags, installed
from sparsestudy.tracking.ledger import Delivery, Ledger, StudyRecord
from sparsestudy.trial import Measurement, Trial, TrialState, short_names, trial_label
from sparsestudy.words import UNITS

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
KEY = "sparsestudy.key"
FAILURE = "sparsestudy.failure"
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
WAITS = "SCHEDULED"
"""Status of the runs of an interrupted study: nobody trains them now, the next launch will."""
MINIMUM_EPOCHS = 25
"""Epochs of a running trial that are worth a request; the rest of a trial travels with its end."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Its own seven retries block for minutes; the ledger waits better.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment in which MLflow asks nobody else's servers, keeps to itself, and gives up early; read when imported."""

Artifacts = Callable[[Trial, list[Measurement]], Mapping[str, bytes]]
"""What to attach to a finished trial: file name -> content."""


def default_uri(folder: Path) -> str:
    """The tracking URI of a study: MLFLOW_TRACKING_URI, or the SQLite store in the study's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"


class Tracker:
    """Ships a study from the ledger to MLflow until closed.

    Args:
        ledger: Where to read; a ledger object of its own, used from the tracker's thread only.
        record: The study.
        folder: The study's folder; artifacts of the embedded store go below it.
        artifacts: Makes the files of a finished trial.
        period: Seconds between passes.

    Attributes:
        failures: Passes that failed; each was logged and tried again.
    """

    def __init__(
        self, ledger: Ledger, record: StudyRecord, folder: Path, artifacts: Artifacts, period: float = 2.0
    ) -> None:
        self.uri = default_uri(folder)
        self.failures = 0
        self._ledger, self._record, self._folder, self._artifacts = ledger, record, folder, artifacts
        self._period = period
        self._closing = threading.Event()
        self._client_: MlflowClient | None = None
        self._experiment = ""
        self._parent = ""
        self._open: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def close(self, timeout: float = 60.0) -> bool:
        """Ship what is left and stop; returns whether everything was delivered within ``timeout`` seconds."""
        self._closing.set()
        self._thread.join(timeout)
        delivered = not self._thread.is_alive() and not self._ledger.undelivered(self._record.id)
        self._ledger.close()  # what is said after this opens it again, and closes it
        return delivered

    def finish(self, artifacts: Mapping[str, bytes], *, metrics: Mapping[str, float], complete: bool) -> None:
        """Attach the study's outcome to the parent run, and say whether the study is complete or will go on.

        To be called after `close`.
        """
        self._connect()
        self.attach(self._parent, artifacts)
        for name, value in metrics.items():
            self._client.log_metric(self._parent, name, value)
        if complete:
            self._client.set_terminated(self._parent)
            return
        for trial in self._ledger.trials(self._record.id):
            if trial.run_id and not trial.state.finished:
                self._client.update_run(trial.run_id, status=WAITS)
        self._client.update_run(self._parent, status=WAITS)
        self._ledger.close()

    def attach_to_study(self, paths: Iterable[Path]) -> None:
        """Attach files to the study's parent run, which stays as it is otherwise; nothing if it has none yet."""
        if self._record.run_id is None:
            return
        for path in paths:
            self._client.log_artifact(self._record.run_id, str(path))

    def attach(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Attach files to a run, in place of those of the same names; outside the thread only after `close`."""
        if not files:
            return
        with tempfile.TemporaryDirectory(prefix="sparsestudy-") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(run_id, folder)

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
        from mlflow.exceptions import MlflowException

        self._connect()
        run_id = str(self._ledger.trial(self._record.id, number).run_id)
        self._ledger.close()
        with tempfile.TemporaryDirectory(prefix="sparsestudy-") as folder:
            for file, content in files.items():
                (Path(folder) / file).write_bytes(content)
            self._client.log_artifacts(run_id, folder, "model")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self._client.create_model_version(name, f"runs:/{run_id}/model", run_id, tags=dict(tags))
        self._client.set_registered_model_alias(name, "champion", version.version)
        return int(version.version)

    # The thread

    def _run(self) -> None:
        delay = self._period
        while True:
            last = self._closing.is_set()
            try:
                self._connect()
                # The last pass takes everything, also of trials that were interrupted.
                while self._pass(1 if last else MINIMUM_EPOCHS):
                    continue
                delay = self._period
            except Exception as error:
                # Whatever MLflow does, training goes on; the ledger keeps what was not delivered.
                self.failures += 1
                delay = min(60.0, 2 * delay)
                logger.warning("MLflow at %s did not take a delivery, trying again: %s", self.uri, error)
            if last:
                return
            self._closing.wait(delay)

    def _pass(self, minimum: int) -> bool:
        """Ship one lot; returns whether there may be more."""
        self._reopen()
        lot = self._ledger.undelivered(self._record.id, minimum=minimum)
        refused: list[Exception] = []
        for delivery in lot:
            try:
                self._ship(delivery)
                self._ledger.mark_delivered(self._record.id, delivery)
            except Exception as error:  # the other trials need not wait for this one
                refused.append(error)
        if refused:
            raise refused[0]
        return bool(lot)

    def _reopen(self) -> None:
        """A trial that is being trained again may have a run that was closed, or waited."""
        for run_id in self._ledger.running_runs(self._record.id) - self._open:
            self._client.update_run(run_id, status="RUNNING")
            self._open.add(run_id)

    @property
    def _client(self) -> MlflowClient:
        if self._client_ is None:
            os.environ.update({**QUIET, **os.environ})
            # MLflow takes a second to import: here, in the tracker's thread, not at the top.
            from mlflow import MlflowClient

            self._client_ = MlflowClient(tracking_uri=self.uri)
        return self._client_

    def _connect(self) -> None:
        if self._parent:
            return
        self._experiment = self._find_experiment(self._record.name)
        spec = self._record.spec
        tags = {
            "sparsestudy.kind": "study",
            "sparsestudy.study": self._record.name,
            "sparsestudy.digest": spec.digest,
            "mlflow.note.content": spec.question,
            **environment_tags(),
        }
        created = int(1000 * self._record.created)
        run_id, fresh = self._find_run("study", self._record.name, created, tags)
        if fresh:
            self.attach(run_id, {"study.yaml": dump_yaml(spec).encode(), "environment.txt": installed().encode()})
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._ledger.set_run(self._record.id, run_id)
        self._parent = run_id

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            embedded = self.uri.startswith("sqlite:///")
            location = (self._folder.resolve() / "artifacts").as_uri() if embedded else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # somebody else was faster
                if found is None:
                    raise
        return str(found.experiment_id)

    def _find_run(self, what: str, name: str, started: int, tags: Mapping[str, str]) -> tuple[str, bool]:
        """The run with our key, created if there is none; and whether it is new."""
        # The time of creation tells apart two studies of the same name in one store.
        key = f"{self._record.name}/{self._record.created:.6f}/{what}"
        runs = self._client.search_runs([self._experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id), False
        run = self._client.create_run(self._experiment, start_time=started, run_name=name, tags={**tags, KEY: key})
        return str(run.info.run_id), True

    def _ship(self, delivery: Delivery) -> None:
        from mlflow.entities import Metric, Param, RunTag

        trial = delivery.trial
        run_id = trial.run_id or self._create(trial)
        main = trial.config.measures.main
        points = [
            Metric(name, value, m.timestamp, m.epoch)
            for m in delivery.measurements
            for name, value in epoch_metrics(m, main).items()
        ]
        tags, parameters = [], []
        if delivery.closing:
            at = int(1000 * (trial.finished or 0))
            points += [Metric(name, value, at, 0) for name, value in headline_metrics(trial).items()]
            tags = [RunTag(k, v) for k, v in end_tags(trial).items()]
            parameters = [Param(mlflow_key(name), str(value)) for name, value in trial.config.parameters.items()]
            parameters.append(Param("seed", str(trial.config.seed)))
        self._client.log_batch(run_id, points, parameters, tags)
        if delivery.closing:
            trajectory = self._ledger.trajectory(self._record.id, trial.number)
            self.attach(run_id, self._artifacts(trial, trajectory))
            if trial.attempts > 1 and trial.failure is None:
                self._forget_failure(run_id, trial)
            self._client.set_terminated(run_id, STATUS[trial.state], int(1000 * (trial.finished or 0)))

    def _forget_failure(self, run_id: str, trial: Trial) -> None:
        """What an earlier attempt said of its failure is not true of the trial any more."""
        if FAILURE not in self._client.get_run(run_id).data.tags:
            return
        self._client.delete_tag(run_id, FAILURE)
        self._client.set_tag(run_id, "mlflow.note.content", UNITS[trial.config.task])

    def _create(self, trial: Trial) -> str:
        config = trial.config
        tags = {
            "mlflow.parentRunId": self._parent,
            "sparsestudy.kind": "trial",
            "sparsestudy.study": self._record.name,
            "sparsestudy.trial": str(trial.number),
            "sparsestudy.arm": config.arm,
            "sparsestudy.task": config.task,
            **({"mlflow.note.content": UNITS[config.task]} if UNITS[config.task] else {}),
            "sparsestudy.methods": "+".join(str(method["method"]) for method in config.methods),
            **{f"sparsestudy.parameter.{mlflow_key(name)}": str(v) for name, v in config.parameters.items()},
        }
        started = int(1000 * (trial.started or 0))
        run_id, _ = self._find_run(f"trial/{trial.number}", trial_label(config), started, tags)
        self._ledger.set_run(self._record.id, run_id, trial.number)
        self._open.add(run_id)
        return run_id


def mlflow_key(name: str) -> str:
    """A name that MLflow takes for a metric, parameter or tag: it allows letters, digits and ``_ - . : /`` and spaces.

    Example:
        >>> mlflow_key("sparsity/perplexity/layer1.0.relu#2")
        'sparsity/perplexity/layer1.0.relu:2'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]", ":", name)


def epoch_metrics(measurement: Measurement, main: str) -> dict[str, float]:
    """What one epoch adds to a run, by name; undefined values are left out.

    These are the scalars; ``sparsity/MAIN/LAYER``, the main measure of each layer on the validation probe set; and all
    measures of weights and of the network, ``weights/MEASURE/WEIGHT`` and ``network/SPLIT/MEASURE``.
    """
    layers, weights, network = (measurement.statistics.get(key, {}) for key in ("validation", "weights", "network"))
    short, short_weights = short_names(layers), short_names(weights)
    found: dict[str, float | None] = {
        **measurement.scalars(),
        "learning_rate": measurement.learning_rate,
        **{f"sparsity/{main}/{short[layer]}": value for layer, value in measurement.series(main).items()},
        **{f"weights/{name}/{short_weights[w]}": value for w, of in weights.items() for name, value in of.items()},
        **{f"network/{split}/{name}": value for split, of in network.items() for name, value in of.items()},
    }
    return {mlflow_key(name): value for name, value in found.items() if value is not None}


def headline_metrics(trial: Trial) -> dict[str, float]:
    """``best/…`` and ``final/…`` values under the short names of layers."""
    prefixes = ("best/sparsity/", "final/sparsity/")
    layers = {k.split("/", 2)[2] for k in trial.headlines if k.startswith(prefixes)} - {"mean"}
    short = short_names(sorted(layers))

    def rename(key: str) -> str:
        head, _, layer = key.rpartition("/")
        return mlflow_key(f"{head}/{short.get(layer, layer)}") if key.startswith(prefixes) else key

    return {rename(key): value for key, value in trial.headlines.items()}


def end_tags(trial: Trial) -> dict[str, str]:
    """How a trial ended."""
    tags = {"sparsestudy.state": str(trial.state), "sparsestudy.epochs": str(trial.epochs)}
    tags["sparsestudy.attempts"] = str(trial.attempts)
    if trial.failure is not None:
        tags[FAILURE] = f"{trial.failure.kind}: {trial.failure.message}"[:5000]
        tags["mlflow.note.content"] = f"```\n{trial.failure.traceback[-4000:]}\n```"
    return tags
